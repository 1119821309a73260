"""What checks of an answer's text say, one by one, and how they make an answer bad or are only counted."""

from __future__ import annotations

import json

import pytest

from loradeck.artifacts.rows.text_language import COMMON_WORDS, SCRIPTS, language
from loradeck.schemas.content_checks import BUILT_IN, LANGUAGES, ContentChecks
from loradeck.schemas.table import ResponseChecks
from loradeck_agent.router import check_worker
from loradeck_agent.router.check_worker import runs_in_a_circle

TEXTS = {
    "en": "You can change the delivery address in your account as long as the parcel has not been sent from our store.",
    "de": "Sie können die Adresse in Ihrem Konto ändern, solange das Paket nicht"
    " aus dem Lager verschickt wird und ist.",
    "fr": "Vous pouvez changer l'adresse dans votre compte tant que le colis est"
    " dans notre dépôt et que vous le voulez.",
    "es": "Puede cambiar la dirección de entrega en su cuenta mientras que el"
    " paquete no se haya enviado por los talleres.",
    "it": "Può cambiare l'indirizzo di consegna nel suo conto, se il pacco non è"
    " ancora partito, come si legge alla fine.",
    "pt": "Você pode mudar o endereço de entrega na sua conta se a encomenda não"
    " foi enviada e ainda não está com os dois.",
    "nl": "U kan het adres in uw account aanpassen zolang het pakket niet is"
    " verzonden en er nog een van de dagen over is.",
    "ru": "Вы можете изменить адрес доставки в своём кабинете, пока посылка не отправлена со склада.",
    "ja": "荷物が倉庫から発送されるまでは、アカウントの配送先住所をいつでも変更することができますのでご安心ください。",
    "zh": "在包裹从仓库发出之前，您随时可以在账户中更改收货地址，如果已"
    "经发出，请联系客服人员帮助您处理这个问题。谢谢您",
    "ko": "소포가 창고에서 발송되기 전까지는 계정에서 배송 주소를 언제든지 변경하실 수 있습니다"
    " 감사합니다 고객님 안녕히 계세요",
}


def answer(text: str = "", calls: list[dict[str, object]] | None = None) -> str:
    message = {"content": text or None} | ({"tool_calls": calls} if calls is not None else {})
    reason = "tool_calls" if calls is not None else "stop"
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": reason}]})


def judged(said: str, **checks: object) -> tuple[str, tuple[str, ...]] | None:
    content = ContentChecks.model_validate(checks)
    return check_worker.judge(said, streamed=False, checks=ResponseChecks(content=content))


@pytest.mark.parametrize("name", TEXTS)
def test_a_language_is_told_by_its_script_or_its_common_words(name: str) -> None:
    assert language(TEXTS[name]) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Yes.",
        '{"category": "refund", "urgent": false, "amount": 12, "currency": "EUR", "customer": "c-1"}',
        "def f(x): return [y for y in range(x) if y % 2 == 0 and y > 10] + sorted(set(map(int, values)))",
        TEXTS["en"] + " " + TEXTS["de"],
    ],
)
def test_no_language_is_told_of_what_is_short_or_data_or_mixed(text: str) -> None:
    assert language(text) is None


def test_the_languages_that_a_route_may_name_are_those_that_are_recognised() -> None:
    assert set(COMMON_WORDS) | {name for _, _, name in SCRIPTS} == LANGUAGES
    with pytest.raises(ValueError, match="xx"):
        ContentChecks(languages=("xx",))


@pytest.mark.parametrize(
    "text",
    [
        "no " * 40,
        "I am sorry. " + "Please restart the device and try it again. " * 8,
        "Well, " + "one two three four five " * 6,
    ],
)
def test_an_answer_that_runs_in_a_circle_is_told(text: str) -> None:
    assert runs_in_a_circle(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no, no, no, no, no, no",
        *TEXTS.values(),
        "\n".join(f"- item {n}: {n * 7} pieces in stock" for n in range(200)),
        "| a | b |\n" + "\n".join(f"| {n} | {n % 3} |" for n in range(300)),
    ],
)
def test_lists_and_tables_are_no_circles(text: str) -> None:
    assert not runs_in_a_circle(text)


def test_a_long_answer_is_looked_at_in_time_that_does_not_grow_with_it() -> None:
    assert not runs_in_a_circle(" ".join(str(n) for n in range(200_000)))


@pytest.mark.parametrize(
    ("said", "checks", "fault"),
    [
        ("Write to ann@example.org.", {"personal_data": True}, "personal_data"),
        ("Write to us.", {"personal_data": True}, ""),
        ("It is xyzzy-plugh-42.", {"canaries": ["xyzzy-plugh-42"]}, "canary"),
        ("It is Xyzzy.", {"canaries": ["xyzzy-plugh-42"]}, ""),
        ("no " * 40, {"repetition": True}, "repetition"),
        (TEXTS["de"], {"languages": ["en"], "alert_only": []}, "language"),
        (TEXTS["de"], {"languages": ["en", "de"], "alert_only": []}, ""),
        ("Ja.", {"languages": ["en"], "alert_only": []}, ""),
        ("Write to ann@example.org, no " + "no " * 40, {}, ""),
    ],
)
def test_each_check_is_off_until_it_is_asked_for(said: str, checks: dict[str, object], fault: str) -> None:
    assert judged(answer(said), **checks) == (fault, ())


def test_a_check_that_only_alerts_is_counted_beside_the_one_that_makes_it_bad() -> None:
    both = {"languages": ["en"], "personal_data": True}

    assert judged(answer(TEXTS["de"]), **both) == ("", ("language",))
    only = {**both, "alert_only": ["language", "personal_data"]}
    assert judged(answer(TEXTS["de"] + " ann@example.org"), **only) == ("", ("personal_data", "language"))
    late = ResponseChecks(min_chars=500, content=ContentChecks(alert_only=("short",)))
    assert check_worker.judge(answer("four"), streamed=False, checks=late) == ("", ("short",))


@pytest.mark.parametrize(
    ("name", "arguments", "fault"),
    [
        ("f", "{}", ""),
        ("f", '{"a": 1}', ""),
        ("", "{}", "tool_call"),
        ("f", "[1]", "tool_call"),
        ("f", "{", "tool_call"),
    ],
)
def test_a_call_of_a_tool_needs_a_name_and_an_object(name: str, arguments: str, fault: str) -> None:
    calls: list[dict[str, object]] = [{"index": 0, "function": {"name": name, "arguments": arguments}}]

    assert judged(answer(calls=calls), tool_calls=True) == (fault, ())
    assert judged(answer(calls=calls)) == ("", ())


def test_a_streamed_call_of_a_tool_is_put_together_from_its_parts() -> None:
    parts = [
        [{"index": 0, "function": {"name": "f", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"a":'}}],
        [{"index": 1, "function": {"name": "g", "arguments": "{}"}}],
        [{"index": 0, "function": {"arguments": " 1}"}}],
    ]
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": calls}}]} for calls in parts]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]})
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"

    (choice,) = check_worker.assemble(stream, streamed=True)
    assert choice.calls == {0: ["f", '{"a": 1}'], 1: ["g", "{}"]}


def test_a_plug_in_has_a_name_of_its_own() -> None:
    for name in BUILT_IN:
        with pytest.raises(ValueError, match=name):
            ContentChecks(plugins=(name,))


DEEP = "[" * 5000


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (answer(DEEP), "not_json"),
        (answer(calls=[{"function": {"name": "f", "arguments": DEEP}}]), "tool_call"),
        (DEEP, "unreadable"),
        ('{"choices": [1]}', "unreadable"),
        ('{"choices": 5}', "unreadable"),
        ('{"choices": [{"message": {"content": [{"type": "text"}]}}]}', "unreadable"),
        ('{"choices": [{"index": "a"}, {"index": 1}]}', "unreadable"),
    ],
)
def test_an_answer_of_no_known_form_is_bad_and_ends_no_checker(said: str, fault: str) -> None:
    """A caller can have a model say brackets, and the checker judges the answers of all tenants of its node."""
    checks = ResponseChecks(answer_schema="{}", content=ContentChecks(tool_calls=True))
    assert check_worker.judge(said, streamed=False, checks=checks) == (fault, ())
