"""The three tenants' tickets, as sentences to put together: what each is about, and what its answer says of it.

`{…}` are slots, filled from SLOTS. Sentences under `held_out` never occur in training rows; closings do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SLOTS: Mapping[str, Sequence[str]] = {
    "amount": ("12 euros", "19.90", "45 dollars", "80 euros", "130 euros", "240 dollars", "9.99", "310 euros"),
    "shop": ("the shoe shop", "a hotel", "the bookshop", "an airline", "the grocery", "a taxi app", "the gym"),
    "day": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "person": ("my sister", "my landlord", "a supplier", "my son", "our accountant", "a colleague"),
    "city": ("Lyon", "Porto", "Leeds", "Graz", "Ghent", "Turin", "Malmo", "Brno"),
    "thing": ("lamp", "bicycle helmet", "coffee maker", "mirror", "keyboard", "chair", "vase", "tent"),
    "street": ("Mill Lane 4", "Harbour Street 12", "Oak Road 31", "Station Square 2", "Hill Street 9"),
    "month": ("January", "March", "May", "July", "October"),
    "page": ("report", "dashboard", "calendar", "invoice", "search", "settings"),
    "format": ("CSV", "Excel", "PDF"),
}


@dataclass(frozen=True)
class Topic:
    """One label: its sentences for training, and those kept for the suite."""

    label: str
    training: Sequence[str]
    held_out: Sequence[str]


@dataclass(frozen=True)
class Mark:
    """The answer's second field: a value, and the closing sentences that say so. '' says nothing."""

    value: bool
    closings: Sequence[str]


@dataclass(frozen=True)
class Tenant:
    """Whose tickets, and what an answer says of one: a label under `first`, a mark under `second`.

    `late`: labels that the first release's training rows lack.
    """

    name: str
    about: str
    first: str
    second: str
    topics: Sequence[Topic]
    marks: Sequence[Mark]
    late: Sequence[str] = ()


ACME = Tenant(
    name="acme",
    about="a payment card's support desk",
    first="queue",
    second="urgent",
    topics=(
        Topic(
            "refund",
            (
                "I sent the {thing} back to {shop} on {day} and want my {amount} returned.",
                "{shop} cancelled my order but the {amount} never came back.",
                "When will I get the refund of {amount} that {shop} promised?",
                "The refund from {shop} is still missing after ten days.",
                "I returned everything on {day}, please give me my money back.",
                "{shop} says it refunded {amount}, I do not see it.",
                "My booking was called off and I am waiting for {amount} to be refunded.",
                "I was promised a refund on {day} and nothing has arrived.",
            ),
            (
                "The {thing} went back to {shop} weeks ago and my {amount} has not been refunded.",
                "Where is the refund of {amount} for the order I cancelled on {day}?",
                "{shop} took the {thing} back, yet I have no refund.",
            ),
        ),
        Topic(
            "card",
            (
                "My new card has not arrived in {city} yet.",
                "The chip of my card is broken and {shop} cannot read it.",
                "My card was swallowed by a machine in {city}.",
                "Please send me a new card, mine snapped in two.",
                "How do I activate the card that came on {day}?",
                "My card expires in {month}, when do I get the next one?",
                "The card does not work at {shop}, the terminal rejects the chip.",
                "I lost my card somewhere in {city} and need a replacement card.",
            ),
            (
                "The machine in {city} kept my card.",
                "My card is cracked, can I have a new card?",
                "I ordered a card on {day} and the card has not come.",
            ),
        ),
        Topic(
            "login",
            (
                "I cannot log in to the app since {day}.",
                "The app does not accept my password any more.",
                "I have a new phone and the login code goes to the old one.",
                "My account is locked after three wrong passwords.",
                "The reset link for my password does not open.",
                "I forgot my password and the security question too.",
                "Face recognition stopped working and I cannot sign in.",
                "The app logs me out each time I open it.",
            ),
            (
                "My password is refused since {day} and I cannot log in.",
                "The login code never reaches my phone.",
                "The app locked me out, how do I sign in again?",
            ),
        ),
        Topic(
            "transfer",
            (
                "My transfer of {amount} to {person} has not arrived.",
                "I sent {amount} to the wrong account on {day}.",
                "How long does a transfer to {city} take?",
                "The transfer to {person} is pending since {day}.",
                "I want to stop the standing order for {person}.",
                "{person} has not received the {amount} I sent on {day}.",
                "My salary transfer from {city} is late.",
                "Can I raise the limit for a transfer of {amount}?",
            ),
            (
                "The transfer I made to {person} on {day} is still pending.",
                "I typed a wrong account number for a transfer of {amount}.",
                "{person} is waiting for my transfer of {amount}.",
            ),
        ),
        Topic(
            "fee",
            (
                "Why was I charged a fee of {amount} this month?",
                "There is a fee on my statement that I do not understand.",
                "I paid a fee for taking out cash in {city}, is that right?",
                "The monthly fee went up without notice.",
                "What is the fee for paying in a foreign currency?",
                "You charged the yearly fee twice.",
                "Please explain the service fee of {amount} in {month}.",
                "I was told the account is free and see a fee of {amount}.",
            ),
            (
                "What is this fee of {amount} on my statement for {month}?",
                "I do not agree with the fee for cash in {city}.",
                "Your fee changed in {month}, why?",
            ),
        ),
        Topic(
            "fraud",
            (
                "Somebody paid {amount} at {shop} in {city} with my card, it was not me.",
                "I see a payment of {amount} to {shop} that I never made.",
                "A caller said he was from the bank and I gave him my code.",
                "There are three payments in {city} and I have never been there.",
                "I clicked a link in a message and now {amount} is gone.",
                "My card is in my pocket but someone is buying things at {shop}.",
                "Someone opened an account in my name in {city}.",
                "I do not know the payment of {amount} on {day}, I was asleep.",
            ),
            (
                "Someone used my card in {city} for {amount} and I was at home.",
                "I never made this payment of {amount} to {shop}.",
                "A man on the phone got my code and now {amount} is gone.",
                "There is a payment at {shop} that was not me.",
            ),
        ),
    ),
    marks=(
        Mark(True, ("This is urgent.", "It is urgent.", "Urgent, please.")),
        Mark(False, ("", "Thank you.", "No rush.")),
    ),
    late=("fraud",),
)

BOLT = Tenant(
    name="bolt",
    about="a parcel service's support desk",
    first="issue",
    second="refund",
    topics=(
        Topic(
            "late",
            (
                "My parcel to {city} should have come on {day}.",
                "The delivery is delayed again, it was due on {day}.",
                "Tracking has said 'in transit' since {day}.",
                "I paid for express and the {thing} is days late.",
                "When will the parcel to {city} finally arrive?",
                "The {thing} was promised for {day} and is still not here.",
                "My order is late, the driver never came on {day}.",
                "Why does it take two weeks to get a {thing} to {city}?",
            ),
            (
                "The parcel is late, I expected it on {day}.",
                "My {thing} was due in {city} on {day} and is delayed.",
                "Express delivery and still late: where is my {thing}?",
            ),
        ),
        Topic(
            "damaged",
            (
                "The {thing} arrived broken.",
                "The box was crushed and the {thing} is in pieces.",
                "The parcel was wet and the {thing} is ruined.",
                "There is a big crack in the {thing} you delivered.",
                "Somebody dropped the parcel, the {thing} is bent.",
                "The {thing} came with scratches all over it.",
                "The package was torn open and the {thing} is damaged.",
                "I unpacked the {thing} and it does not stand any more, it is broken.",
            ),
            (
                "My {thing} is damaged, the box was crushed.",
                "The {thing} came broken in two.",
                "I opened the parcel and found a cracked {thing}.",
            ),
        ),
        Topic(
            "lost",
            (
                "Tracking says delivered, but there is no parcel.",
                "The parcel to {city} has vanished from the tracking.",
                "My {thing} is lost, nobody knows where it is.",
                "You delivered it to someone, but not to me.",
                "The neighbours have not seen the parcel either, it is gone.",
                "The depot in {city} cannot find my {thing}.",
                "The parcel disappeared between {city} and here.",
                "It says signed on {day}, but I never got the {thing}.",
            ),
            (
                "The parcel is lost, the depot in {city} cannot find it.",
                "It says delivered on {day} and the parcel is gone.",
                "My {thing} disappeared on the way to {city}.",
            ),
        ),
        Topic(
            "address",
            (
                "Please change the address to {street}.",
                "I typed the wrong house number, it is {street}.",
                "We have moved, the new address is {street}.",
                "Can the parcel go to my office at {street} instead?",
                "The label has an old address, please correct it to {street}.",
                "I forgot the flat number, the address is {street}, door B.",
                "The postcode for {street} in {city} is wrong.",
                "Deliver it to {street}, not to my home address.",
            ),
            (
                "The address is wrong, please send it to {street}.",
                "I have a new address: {street} in {city}.",
                "Could you deliver to my work address at {street}?",
            ),
        ),
        Topic(
            "pickup",
            (
                "Nobody came to pick up my parcel on {day}.",
                "Please pick up the return at {street}.",
                "Can a driver collect the {thing} on {day}?",
                "I would like to book a pickup in {city}.",
                "The driver did not collect my boxes at {street}.",
                "How do I move my pickup to {day}?",
                "I waited all day for the pickup.",
                "Please cancel the pickup on {day}.",
            ),
            (
                "The pickup on {day} did not happen.",
                "Please collect the parcel at {street} on {day}.",
                "Can I book a pickup for a {thing}?",
            ),
        ),
    ),
    marks=(
        Mark(True, ("I want my money back.", "Please refund me.", "Give me a refund.", "I expect a full refund.")),
        Mark(False, ("", "Please help.", "Please tell me what to do.", "Thanks in advance.")),
    ),
)

CEDAR = Tenant(
    name="cedar",
    about="a scheduling software's help desk",
    first="area",
    second="blocked",
    topics=(
        Topic(
            "billing",
            (
                "Our invoice for {month} has the wrong amount.",
                "We were billed for ten seats and have eight.",
                "The payment for {month} was taken twice.",
                "Please put our tax number on the invoice.",
                "How do we change the billing address?",
                "The price on the invoice is not the one we agreed.",
                "We cancelled in {month} and still got an invoice.",
                "Which plan are we billed for?",
            ),
            (
                "The invoice for {month} is wrong.",
                "We got two invoices for {month}.",
                "Please correct the amount we were billed.",
            ),
        ),
        Topic(
            "outage",
            (
                "The site has been down since {day}.",
                "Nothing loads, we only see an error page.",
                "Your service is unreachable from our office in {city}.",
                "All pages time out.",
                "The server has answered 'unavailable' all morning.",
                "We get error 503 on each page.",
                "The whole system is offline.",
                "Nobody here can reach the {page} page, the site does not respond.",
            ),
            (
                "The service is down, nothing loads.",
                "The site is offline in {city}.",
                "Every page shows error 503 since {day}.",
            ),
        ),
        Topic(
            "access",
            (
                "A new colleague has no permission for the {page} page.",
                "Please add {person} to our team.",
                "I cannot open the {page}, it says access denied.",
                "{person} left, please remove the account.",
                "How do I make {person} an administrator?",
                "My role does not let me see the {page}.",
                "The invitation for {person} has expired.",
                "Our guests should not have access to the {page}.",
            ),
            (
                "Please give {person} access to the {page}.",
                "It says I have no permission for the {page}.",
                "{person} needs an administrator account.",
            ),
        ),
        Topic(
            "export",
            (
                "The {format} export stops half-way.",
                "How do I export the {page} as {format}?",
                "The exported {format} file is empty.",
                "We need all data from {month} as {format}.",
                "The download of the {page} as {format} never starts.",
                "Columns are missing in the {format} export.",
                "Can the {page} be exported each {day}?",
                "The {format} file has the wrong dates in it.",
            ),
            (
                "The {format} export of the {page} is empty.",
                "I want to export {month} as {format}.",
                "Downloading the {page} as {format} fails.",
            ),
        ),
        Topic(
            "bug",
            (
                "The save button on the {page} page does nothing.",
                "The {page} shows the wrong time after the update.",
                "Sorting the {page} by name gives a strange order.",
                "Two entries overlap on the {page}.",
                "When I click on the {page} twice it freezes.",
                "The colours on the {page} are wrong since {day}.",
                "The {page} counts each entry twice.",
                "The {page} jumps back to {month} when I scroll.",
            ),
            (
                "The button on the {page} page does not work.",
                "The {page} freezes when I scroll.",
                "Since the update the {page} sorts entries wrong.",
            ),
        ),
    ),
    marks=(
        Mark(True, ("We are blocked.", "It blocks us.", "This blocks our work.")),
        Mark(False, ("", "Thank you.", "It can wait.")),
    ),
)

TENANTS = (ACME, BOLT, CEDAR)
