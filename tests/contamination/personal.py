"""Recall of the scan and of redaction for personal data, by language, over sentences that are made by a fixed seed.

Every value is invented: names from lists, numbers drawn, check digits computed. A value is found by the scan where it
finds anything in its sentence, and by redaction where the value does not stand in what is left.
"""

import random
from collections.abc import Callable, Iterator

from loradeck.artifacts.rows.name_search import NameSearch
from loradeck.artifacts.rows.personal_data import ADDRESS, BIRTH, ILLNESS, kinds_in, luhn
from loradeck.artifacts.rows.pseudonyms import Pseudonyms
from loradeck.rules.quality.statistics import upper_bound

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
RARE = {
    "English": ("sarcoidosis", "gallstones", "hay fever", "a hernia"),
    "German": ("Sarkoidose", "Gallensteine", "Heuschnupfen", "Leistenbruch"),
    "French": ("la sarcoïdose", "des calculs biliaires", "le rhume des foins", "une hernie"),
    "Spanish": ("sarcoidosis", "cálculos biliares", "fiebre del heno", "una hernia"),
    "Polish": ("sarkoidoza", "kamica żółciowa", "katar sienny", "przepuklina"),
    "Japanese": ("サルコイドーシス", "胆石", "花粉症", "ヘルニア"),
}
UNUSUAL = {
    "English": "The Old Mill, Wetherby LS{} 6AB",
    "German": "Mühle am Anger, Neudorf bei Gera",
    "French": "lieu-dit Le Moulin, commune de Saint-Rémy",
    "Spanish": "Finca El Molino, s/n, Ronda",
    "Polish": "Stary Młyn, Nowa Wieś koło Łodzi",
    "Japanese": "京都の清水寺の隣の家",
}
BORN = {
    "English": ("I was born on {} in Leeds.", "Date of birth: {}", "DOB {}, please check."),
    "German": ("Ich bin am {} geboren.", "Geburtsdatum: {}", "Anke, geb. {}, wartet."),
    "French": ("Je suis né le {} à Lyon.", "Date de naissance : {}", "Née le {}, elle attend."),
    "Spanish": ("Nací el {} en Madrid.", "Fecha de nacimiento: {}", "Lucía, nacida el {}, espera."),
    "Polish": ("Urodziłem się {} w Łodzi.", "Data urodzenia: {}", "Zofia, ur. {}, czeka."),
    "Japanese": ("私は{}生まれです。", "生年月日：{}", "誕生日は{}です。"),
}
MORE = {
    "English": "Thank you, this is what we have for you and it is on the way to the shop.",
    "German": "Vielen Dank, das ist nicht die Antwort, auf die wir mit dem Team warten, und sie wird geprüft.",
    "French": "Merci, ce sont les choses que nous avons pour vous, et elles ne sont pas dans le magasin.",
    "Spanish": "Gracias, esto es lo que la tienda tiene para los clientes, pero no se sabe más del pedido.",
    "Polish": "Dziękuję, to jest dla nas ważne, ale nie ma go w sklepie i może być za kilka dni.",
    "Japanese": "ありがとうございます。ご注文の品はいま店に向かっておりますので、しばらくお待ちください。",
}
"""A text by which the language of a row is recognised."""

HARMLESS = {
    "English": (
        "The order of 12 May 1985 has 3 boxes.",
        "Close 2 windows, then drive 24 miles.",
        "He was born in a town by the road.",
        "The 2nd Street Fighter is out on 01/02/2023.",
        "A stroke of luck, no cold feet.",
        "Room 12 Main Hall, 40 seats.",
        "Invoice 4711 of 2024-03-01 is paid.",
        "Depressing news: the shop is shut.",
        "The birth of jazz, track 5 of 12.",
        "This is 5 Star service, Mr.",
        "Take the road to Leeds for 10 miles.",
        "She is addicted to chocolate.",
    ),
    "German": (
        "Die Bestellung vom 12.05.1985 hat 3 Kisten.",
        "Auf diesem Weg 2 Tage sparen.",
        "Meine Straße 5 Minuten entlang.",
        "In Gasse und Allee stehen 12 Bäume.",
        "Rechnung 4711 vom 01.02.2023 ist bezahlt.",
        "Das ist krass und krank teuer.",
        "Der geborene Verkäufer, Platz 3.",
        "Lieferung bis 50 kg, 20 Euro.",
        "Er hat die Nase voll.",
        "Um 12 Uhr am Ring.",
        "Das Wochenende, 3 Tage frei.",
        "Ein Schlag ins Wasser.",
    ),
    "French": (
        "La commande du 12/05/1985 a 3 cartons.",
        "Il reste 2 places dans la rue.",
        "Un cours de 3 heures, 20 euros.",
        "La facture 4711 du 01/02/2023 est payée.",
        "Le goût est bon, 4 sur 5.",
        "Une zone de 12 mètres.",
        "Le chemin est long de 3 km.",
        "C'est déprimant.",
        "La naissance du jazz.",
        "Le quai est fermé.",
        "Cette enceinte de 20 watts.",
        "Un coup de froid.",
    ),
    "Spanish": (
        "El pedido del 12/05/1985 tiene 3 cajas.",
        "La calle está cerrada 2 días.",
        "La factura 4711 del 01/02/2023 está pagada.",
        "Una plaza para 3 personas.",
        "El camino es de 12 km.",
        "El nacimiento del jazz.",
        "Un paseo de 2 horas.",
        "Qué pena me da.",
        "Quedan 5 en la tienda.",
        "Esto es de locos.",
        "Un golpe de suerte.",
        "Tres por 20 euros.",
    ),
    "Polish": (
        "Zamówienie z 12.05.1985 ma 3 paczki.",
        "Ulica jest zamknięta przez 2 dni.",
        "Faktura 4711 z 01.02.2023 jest opłacona.",
        "Moja żona czeka 12 minut.",
        "Rak z jeziora, 3 sztuki.",
        "Narodziny jazzu.",
        "Droga ma 5 km.",
        "To przykre.",
        "Plac dla 20 osób.",
        "Zostało 7 sztuk.",
        "Udar sprzedaży.",
        "Cena 12,50 zł.",
    ),
    "Japanese": (
        "1985年5月12日の注文は3箱です。",
        "道は2日間閉鎖です。",
        "請求書4711は支払い済みです。",
        "がんばってください。",
        "12時に来てください。",
        "京都府のお店です。",
        "東京都で3個売れました。",
        "残りは5個です。",
        "うつくしい色です。",
        "番号は12です。",
        "頭が痛い話です。",
        "生まれ変わった製品です。",
    ),
}
"""Sentences in which nobody's data stands, but days, streets and words that look like it."""

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
    "address without street and number": lambda language, draw: UNUSUAL[language].format(draw.randrange(10, 30)),
    "date of birth": lambda language, draw: DAYS[language].format(draw.randrange(10, 29)),
    "day, without a word for birth": lambda language, draw: DAYS[language].format(draw.randrange(10, 29)),
    "illness": lambda language, draw: draw.choice(ILLNESSES[language]),
    "rarer illness": lambda language, draw: draw.choice(RARE[language]),
}


def _found(text: str) -> set[str]:
    return kinds_in(iter((text,)), None)


def _left(text: str) -> str:
    left: str = Pseudonyms(b"k" * 32, "acme").row({"prompt": text})["prompt"]
    return left


def sentences(kind: str, language: str) -> tuple[list[str], list[str]]:
    """Values of a kind, and a sentence with each of them."""
    draw = random.Random(f"{SEED} {kind} {language}")
    values = [KINDS[kind](language, draw) for _ in range(EACH)]
    frames = (BORN if kind == "date of birth" else FRAMES)[language]
    return values, [draw.choice(frames).format(value) for value in values]


def table() -> Iterator[str]:
    """Yields the lines of the tables: of so many sentences, in how many the scan and redaction found the value."""
    yield f"| of {EACH} each: scan, redaction | {' | '.join(FRAMES)} |"
    yield "|---" * (len(FRAMES) + 1) + "|"
    counts = {0, EACH}
    for kind in KINDS:
        cells = []
        for language in FRAMES:
            values, texts = sentences(kind, language)
            scanned = sum(bool(_found(text)) for text in texts)
            replaced = sum(value not in _left(text) for value, text in zip(values, texts, strict=True))
            counts |= {scanned, replaced}
            cells.append(f"{scanned}, {replaced}")
        yield f"| {kind} | {' | '.join(cells)} |"
    yield intervals(counts, EACH)
    yield f"| in sentences without: scan | {' | '.join(HARMLESS)} |"
    for kind in (BIRTH, ADDRESS, ILLNESS):
        alarms = (f"{sum(kind in _found(text) for text in texts)} of {len(texts)}" for texts in HARMLESS.values())
        yield f"| {kind} | {' | '.join(alarms)} |"


def intervals(counts: set[int], n: int) -> str:
    """Says the intervals of shares that were found (Clopper and Pearson, 95 %)."""
    said = (f"{k} is {1 - upper_bound(n - k, n, 0.025):.0%} to {upper_bound(k, n, 0.025):.0%}" for k in sorted(counts))
    return f"Of {n} (Clopper and Pearson, 95 %): {'; '.join(said)}."


def table_of_names(search: NameSearch) -> Iterator[str]:
    """Yields the lines of the table of names: in how many rows models found the whole name, and names that are none."""
    found: dict[str, list[str]] = {"recognised": [], "short": [], "without": []}
    counts = {0}
    for language, harmless in HARMLESS.items():
        values, texts = sentences("name", language)
        for rows, more in (("recognised", MORE[language]), ("short", "")):
            search.without.clear()
            places = search.in_rows([{"prompt": text, "answer": more} for text in texts])
            k = sum(
                any(text[start:end] == value for start, end in row.get(text, ()))
                for value, text, row in zip(values, texts, places, strict=True)
            )
            counts.add(k)
            not_searched = bool(search.without) and None not in search.without
            found[rows].append("not looked for" if not_searched else str(k))
        alarms = sum(map(bool, search.in_rows([{"prompt": text} for text in harmless])))
        found["without"].append(f"{alarms} of {len(harmless)}")
    yield f"| names of {EACH} each | {' | '.join(FRAMES)} |"
    yield f"| in rows whose language is recognised | {' | '.join(found['recognised'])} |"
    yield f"| in rows of one short sentence | {' | '.join(found['short'])} |"
    yield f"| short sentences without a name in which it finds one | {' | '.join(found['without'])} |"
    yield intervals(counts, EACH)
