"""Recall of the scan and of redaction for personal data, by language, over sentences that are made by a fixed seed.

Every value is invented: names from lists, numbers drawn, check digits computed. A value is found by the scan where it
finds anything in its sentence, and by redaction where the value does not stand in what is left.
"""

import random
from collections.abc import Callable, Iterator

from loradeck.artifacts.rows.personal_data import luhn, personal, redacted

SEED, EACH = 17, 20

FRAMES = {
    "English": ("Please write to {} about the order.", "{} has asked for it.", "The record says {}, I think."),
    "German": ("Bitte schreiben Sie wegen der Bestellung an {}.", "{} hat danach gefragt.", "In der Akte steht {}."),
    "French": ("Merci d'écrire à {} pour la commande.", "{} l'a demandé.", "Le dossier indique {}, je crois."),
    "Spanish": ("Escriba a {} por el pedido.", "{} lo ha pedido.", "En la ficha pone {}, creo."),
    "Polish": ("Proszę napisać do {} w sprawie zamówienia.", "{} o to prosił.", "W aktach jest {}."),
    "Japanese": ("ご注文の件は {} までご連絡ください。", "{} から問い合わせがありました。", "記録には {} とあります。"),
}
NAMES = {
    "English": ("Margaret Hollis", "Tom Achebe", "Priya Raman", "Siobhan Doyle"),
    "German": ("Jürgen Weißmann", "Anke Schäfer", "Yusuf Demir", "Grit Böhme"),
    "French": ("Hélène Lefèvre", "Youssef Benali", "Chloé Dupré", "Gaël Moreau"),
    "Spanish": ("José Ángel Núñez", "María Peña", "Iñaki Echeverría", "Lucía Gómez"),
    "Polish": ("Łukasz Wójcik", "Małgorzata Żak", "Paweł Ślusarczyk", "Zofia Król"),
    "Japanese": ("佐藤 花子", "田中 一郎", "鈴木 健太", "高橋 美咲"),
}
STREETS = {
    "English": "{} Harbour Lane, Leeds LS{} 4DT",
    "German": "Lindenstraße {}, 50{}7 Köln",
    "French": "{} rue des Lilas, 690{} Lyon",
    "Spanish": "Calle Mayor {}, 280{} Madrid",
    "Polish": "ul. Długa {}, 00-{}0 Warszawa",
    "Japanese": "東京都港区芝{}丁目{}番",
}
ILLNESSES = {
    "English": ("asthma", "type 2 diabetes", "depression"),
    "German": ("Asthma", "Zuckerkrankheit", "Depression"),
    "French": ("l'asthme", "le diabète", "une dépression"),
    "Spanish": ("asma", "diabetes", "depresión"),
    "Polish": ("astma", "cukrzyca", "depresja"),
    "Japanese": ("喘息", "糖尿病", "うつ病"),
}
COUNTRY = {"English": "GB", "German": "DE", "French": "FR", "Spanish": "ES", "Polish": "PL", "Japanese": "DE"}
PREFIX = {"English": "44", "German": "49", "French": "33", "Spanish": "34", "Polish": "48", "Japanese": "81"}
PHONES = {
    "English": "020 7946 0###",
    "German": "0221 4#####",
    "French": "01 4# ## ## ##",
    "Spanish": "91# ## ## ##",
    "Polish": "22 5## ## ##",
    "Japanese": "03-5###-####",
}
IDS = {
    "English": "QQ 12 ## ## C",
    "German": "T22000####",
    "French": "1 85 05 78 006 ### ##",
    "Spanish": "5332#### K",
    "Polish": "8505120####",
    "Japanese": "1234 5### ####",
}
DAYS = {
    "English": "{} May 1985",
    "German": "{}.05.1985",
    "French": "{}/05/1985",
    "Spanish": "{} de mayo de 1985",
    "Polish": "{}.05.1985",
    "Japanese": "1985年5月{}日",
}


def _digits(form: str, draw: random.Random) -> str:
    return "".join(str(draw.randrange(10)) if char == "#" else char for char in form)


def _iban(language: str, draw: random.Random) -> str:
    country, account = COUNTRY[language], _digits("#" * 18, draw)
    number = int("".join(str(int(char, 36)) for char in f"{account}{country}00"))
    return f"{country}{98 - number % 97:02d}{account}"


def _card(language: str, draw: random.Random) -> str:
    first = _digits("4###-####-####-###", draw)
    return next(f"{first}{last}" for last in range(10) if luhn(f"{first}{last}"))


KINDS: dict[str, Callable[[str, random.Random], str]] = {
    "e-mail": lambda language, draw: _digits("k.###@mail.example", draw),
    "phone with +": lambda language, draw: _digits(f"+{PREFIX[language]} ## ### ## ##", draw),
    "phone as people write it": lambda language, draw: _digits(PHONES[language], draw),
    "IBAN": _iban,
    "card": _card,
    "national id": lambda language, draw: _digits(IDS[language], draw),
    "name": lambda language, draw: draw.choice(NAMES[language]),
    "address": lambda language, draw: STREETS[language].format(draw.randrange(2, 99), draw.randrange(10, 30)),
    "date of birth": lambda language, draw: DAYS[language].format(draw.randrange(10, 29)),
    "illness": lambda language, draw: draw.choice(ILLNESSES[language]),
}


def table() -> Iterator[str]:
    """Yields the lines of the table: of so many sentences, in how many the scan and redaction found the value."""
    yield f"| of {EACH} each: scan, redaction | {' | '.join(FRAMES)} |"
    yield "|---" * (len(FRAMES) + 1) + "|"
    for kind, make in KINDS.items():
        cells = []
        for language, frames in FRAMES.items():
            draw = random.Random(f"{SEED} {kind} {language}")
            values = [make(language, draw) for _ in range(EACH)]
            texts = [draw.choice(frames).format(value) for value in values]
            scanned = sum(bool(personal(text)) for text in texts)
            cells.append(f"{scanned}, {sum(v not in redacted(t) for v, t in zip(values, texts, strict=True))}")
        yield f"| {kind} | {' | '.join(cells)} |"
