"""Jinja templates: equal to Jinja where they are allowed, refused where they are not, and always at an end."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.sandbox import SandboxedEnvironment

from lmtailor.core.errors import InputError
from lmtailor.tasks.templates.template import JinjaTemplate, TemplateError

RECORD: dict[str, Any] = {
    "text": "A gripping film, |once| seen. ",
    "n": 3,
    "share": 0.25,
    "none": None,
    "yes": True,
    "tags": ["old", "New", "old"],
    "answers": {"text": ["Paris"], "start": [7], "items": "no method"},
    "turns": [{"who": "A", "said": "hi"}, {"who": "B", "said": "ho"}],
}


def template(source: str, choices: str | None = None) -> JinjaTemplate:
    return JinjaTemplate(name="asked", source=source, choices=choices)


def by_jinja(source: str, record: dict[str, Any] = RECORD) -> tuple[str, ...]:
    """The result of Jinja itself, split as promptsource splits it."""
    return tuple(part.strip() for part in SandboxedEnvironment().from_string(source).render(**record).split("|||"))


ALLOWED = [
    "plain",
    "{{ text }} Good? ||| {{ 'yes' if n > 2 else 'no' }}",
    "{{ text|lower|trim|capitalize }} {{ text|upper }} {{ text | title }} {{ text|length }} {{ tags | join(', ') }}",
    "{{ text|replace('film', 'movie') }} {{ text|replace('', '-', 2) }} {{ tags|first }} {{ tags | last }} {{ tags[1] }}",
    "{{ missing | default('none') }} {{ none|default('x', true) }} {{ missing|d }} {{ none|d('kept') }}",
    "{% if n == 3 and not missing %}three{% elif n %}some{% else %}none{% endif %}",
    "{% if missing is defined %}a{% elif n is odd %}b{% endif %}",
    "{% if 'old' in tags %}c{% endif %}{% if 'x' not in text %}d{% endif %}",
    "{% for turn in turns %}{{ loop.index }}/{{ loop.length }} {{ turn.who }}{{ ', ' if not loop.last }}{% endfor %}",
    "{% for turn in turns %}{{ turn['said'] }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.first }}{% endfor %}",
    "{% for tag in tags if tag != 'New' %}{{ tag }};{% else %}empty{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}",
    "{% for key, value in {'a': 1, 'b': 2}.items() %}{{ key ~ value }} {% endfor %}",
    "{% for key in {'a': 1} %}{{ key }}{% endfor %}",
    "{% set x = 'outer' %}{% for i in range(3) %}{% set x = i %}{{ x }}{% endfor %}{{ x }}",
    "{% set a, b = [1, 2] %}{{ a + b * 2 - 1 }} {{ 7 // 2 }} {{ 7 % 4 }} {{ 7 / 2 }} {{ -n }} {{ +n }} {{ 'a' + 'b' }}",
    "{{ ([1] + [2])|join }}",
    "{{ answers.text[0] }} {{ answers['text'][0] }} {{ answers.text|length }} {{ answers['start'][-1] }}",
    "{{ text[:4] }} {{ text[-3:] }} {{ tags[1:]|join('+') }} {{ text[::2] }}",
    "{{ text.split(',')[0] }} {{ text.strip().lower() }} {{ ', '.join(tags) }}",
    "{{ tags.index('New') }} {{ text.replace('a', 'b') }}",
    "{{ text.startswith('A') }} {{ text.endswith('x') }} {{ tags.count('old') }}",
    "{{ text.index('film') }} {{ answers.get('no', 'x') }}",
    "{{ share|round(1) }} {{ n|round }} {{ 2.567|round(2) }} {{ -n|abs }}",
    "{{ '42'|int + 1 }} {{ 'x'|int }} {{ '2.5'|float }} {{ n|string ~ '!' }}",
    "{{ tags|unique|join(',') }} {{ tags|sort|join(',') }}",
    "{{ [3, 1, 2]|sort|join }} {{ [3, 1]|min }} {{ [3, 1]|max }} {{ [3, 1]|sum }}",
    "{{ tags|reverse|list|join }} {{ 'abc'|reverse }} {{ 'abc'|list|join('-') }} {{ tags|count }}",
    "{{ 1 < 2 < 3 }} {{ 3 >= n }} {{ 'a' != 'b' }} {{ n in [1, 3] }} {{ 'who' in turns[0] }} {{ (1, 2)|length }}",
    "{{ none or 'fallback' }} {{ n and 'x' == 'x' }} {{ none }} {{ yes }}",
    "{{ share }} {{ n is none }} {{ text is string }} {{ n is eq 3 }}",
    "{{ turns[0].who is in ['A'] }} {{ tags is sequence }}",
    "{{ answers is mapping }} {{ n is number }} {{ yes is true }} {{ n is even }}",
    "{{ tags|map('upper')|join(',') }} {{ turns|map(attribute='who')|join(',') }} {{ [text]|map('replace', 'a', 'b')|first }}",
    "{{ tags|reject('equalto', 'old')|join }} {{ tags|select('!=', 'New')|list|length }} {{ [1, 2, 3]|select('odd')|join(',') }}",
    "{{ tags|select('in', ['old'])|list|count }} {{ [1, 2]|reject('even')|join }}",
    "{# a note #}{% raw %}{{ kept }}{% endraw %}{%- if yes -%}  x  {%- endif %}",
]


@pytest.mark.parametrize("source", ALLOWED)
def test_what_is_allowed_gives_what_jinja_gives(source: str) -> None:
    assert template(source).render(RECORD).parts == by_jinja(source)


BREAKOUTS = [
    ("{{ ''.__class__ }}", "asks for '__class__'; there are no attributes"),
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "method '__subclasses__'"),
    ("{{ text['__class__'] }}", "there are no attributes"),
    ("{{ tags.append }}", "there are no attributes"),
    ("{{ tags.append(1) }}", "method 'append', which is not allowed"),
    ("{{ turns[0]['__class__'] }}", "asks a table for '__class__'"),
    ("{{ text|attr('__class__') }}", "filter 'attr'"),
    ("{{ tags|map('attr', '__class__') }}", "filter 'attr'"),
    ("{{ tags|map(attribute='__class__')|join }}", "there are no attributes"),
    ("{{ turns|map(attribute='__class__')|join }}", "asks a table for '__class__'"),
    ("{{ tags|map('upper', attribute='x') }}", "there are no attributes|at once"),
    ("{{ tags|map }}", "needs text"),
    ("{{ tags|select('callable') }}", "test 'callable'"),
    ("{{ tags|select('eq') }}", "cannot be computed"),
    ("{{ zip(tags, 3) }}", "needs a list"),
    ("{{ [tags]|map('map', 'map', 'map', 'upper')|list }}", "needs a list"),
    ("{{ self }}", "names 'self'"),
    ("{{ self.__init__.__globals__ }}", "there are no attributes"),
    ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "method 'read'"),
    ("{{ config }}", "names 'config'"),
    ("{{ lipsum() }}", "function 'lipsum'"),
    ("{{ range.__call__ }}", "there are no attributes"),
    ("{{ (range)(3) if false else [].__class__ }}", "there are no attributes"),
    ("{{ text.upper()() }}", "calls what is neither"),
    ("{{ text.format(1) }}", "method 'format'"),
    ("{{ '%9999999999d' % 3 }}", "needs a number"),
    ("{{ '{0:9999999999}'|format(3) }}", "filter 'format'"),
    ("{% for i in range(10**9) %}a{% endfor %}", "has a Pow"),
    ("{% for i in range(1000000000) %}a{% endfor %}", "range of 1,000,000,000"),
    ("{% for i in range(1000) %}{% for j in range(1000) %}{% endfor %}{% endfor %}", "steps"),
    ("{{ text * 10**9 }}", "has a Pow"),
    ("{{ text * 1000000000 }}", "needs a number"),
    ("{{ [1] * 1000000000 }}", "needs a number"),
    ("{{ 10 ** 10 ** 10 }}", "has a Pow"),
    ("{{ 999999999999999 * 999999999999999 }}", "computes a number beyond"),
    ("{{ 9" + "9" * 5000 + " }}", "cannot be read"),
    ("{{ text|center(1000000000) }}", "filter 'center'"),
    ("{{ text|indent(1000000000) }}", "filter 'indent'"),
    ("{{ text|wordwrap(1) }}", "filter 'wordwrap'"),
    ("{{ text|replace('', text)|replace('', text)|replace('', text)|replace('', text)|replace('', text) }}", "characters"),
    ("{{ text.join(range(1000)).join(range(1000)).join(range(1000)) }}", "characters"),
    ("{% set x = text %}" + "{% set x = x ~ x %}" * 40, "characters"),
    ("{% set x = [1] %}" + "{% set x = [x, x] %}" * 100, "characters|deep"),
    ("{% set x = [1] %}" + "{% set x = [x] %}" * 900 + "{{ x == x }}", "deep"),
    ("{% set x = {'a': 1} %}" + "{% set x = {'a': x, 'b': x} %}" * 100, "characters|deep"),
    ("{{ " + "(" * 500 + "1" + ")" * 500 + " }}", "nested"),
    ("{{ " + "[" * 65 + "1" + "]" * 65 + " }}", "nested"),
    ("{% if yes %}" * 100 + "{% endif %}" * 100, "nested"),
    ("{{ " + "+".join("1" * 200) + " }}", "nested"),
    ("x" * 30_000, "30,002 characters"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "function 'f'|Macro"),
    ("{% for x in tags recursive %}{{ loop(x) }}{% endfor %}", "recursive|function 'loop'"),
    ("{% include 'a' %}", "has an Include"),
    ("{% import 'os' as os %}", "has an Import"),
    ("{% from 'os' import path %}", "FromImport"),
    ("{% extends 'a' %}", "has an Extends"),
    ("{% block a %}{% endblock %}", "has a Block"),
    ("{% with a = 1 %}{% endwith %}", "has a With"),
    ("{% filter upper %}{% endfilter %}", "has a FilterBlock"),
    ("{% set x %}{% endset %}", "has an AssignBlock"),
    ("{% set ns = namespace(x=1) %}", "function 'namespace'"),
    ("{% set ns.x = 1 %}", "sets something other than a name|NSRef"),
    ("{% set loop = 1 %}", "sets something other"),
    ("{% autoescape false %}{% endautoescape %}", "not allowed"),
    ("{{ text|replace(*tags) }}", "spreads arguments"),
    ("{{ range(*tags) }}", "spreads arguments"),
    ("{{ tags }}", "prints a list of 3"),
    ("{{ answers }}", "prints a table"),
    ("{{ absent }}", "names 'absent', which the data has not"),
    ("{{ tags[9] }}", "item 9, of 3"),
    ("{{ n[0] }}", "asks 3 for an item"),
    ("{{ 1 / 0 }}", "cannot be computed"),
    ("{{ text|join(1) }}", "needs text where it has 1"),
    ("{{ text|lower(1, 2) }}", "cannot be computed"),
    ("{{ ['a', 1]|sort }}", "neither all text nor all numbers"),
    ("{{ 'a' < 1 }}", "needs a number"),
    ("{{ 1 in 2 }}", "looks for something in 2"),
    ("{{ [[1]]|unique }}", "cannot be computed"),
    ("{{ text|nosuch }}", "filter 'nosuch'"),
    ("{{ text is callable }}", "test 'callable'"),
    ("{{ text", "is no Jinja"),
    ("{% do tags.append(1) %}", "is no Jinja"),
]


@pytest.mark.parametrize(("source", "told"), BREAKOUTS, ids=[source[:40] for source, _ in BREAKOUTS])
def test_what_is_not_allowed_is_told_with_name_and_line(source: str, told: str) -> None:
    with pytest.raises(TemplateError, match=rf"(?s)^The template 'asked', line [13]: it .*({told})"):
        template("\n\n" + source).render(RECORD)


def test_the_line_is_that_of_the_fault() -> None:
    with pytest.raises(TemplateError, match="'asked', line 4"):
        template("a\n{% if yes %}\nb\n{{ absent }}\n{% endif %}").render(RECORD)
    with pytest.raises(TemplateError, match="'asked', line 2"):
        template("a\n{{ tags }}").render(RECORD)
    with pytest.raises(TemplateError, match="'asked', answer_choices, line 2"):
        template("a", "x\n||| {{ y.__class__ }}")


def test_the_worst_comes_to_an_end() -> None:
    """Not a matter of speed: without the bounds these would run for days."""
    long = {"text": "x" * 900_000, "tags": ["y" * 100] * 9000}
    sources = (
        "{% for i in range(1000) %}{% for j in range(40) %}{% if text == text ~ '' %}{% endif %}{% endfor %}{% endfor %}",
        "{% for i in range(1000) %}{% for t in tags %}{% if t in tags %}{% endif %}{% endfor %}{% endfor %}",
        "{% for i in range(1000) %}{% if tags == tags|list %}{% endif %}{% endfor %}",
        "{% for t in tags %}{% set x = tags|sort|reverse|unique|join|upper %}{% endfor %}",
    )
    for source in sources:
        with pytest.raises(TemplateError, match=r"characters|steps"):
            template(source).render(long)


def test_only_plain_data_gets_in() -> None:
    class Spy:
        def __getattribute__(self, name: str) -> object:
            raise AssertionError(name)

    class Words(str):  # noqa: SLOT000 - as hostile as can be
        def replace(self, *args: object) -> str:
            raise AssertionError

    for value in (Spy, object(), b"bytes", [object()], {"a": {1: "x"}}, {"a": print}, {1, 2}):
        with pytest.raises(TemplateError, match=r"plain data|key is a"):
            template("{{ x }}").render({"x": value})
    assert template("{{ x|upper }}").render({"x": Words("a")}).input == "A"
    deep: Any = "x"
    for _ in range(30):
        deep = [deep]
    with pytest.raises(TemplateError, match="nested more than"):
        template("a").render({"x": deep})


def test_zip_is_promptsources() -> None:
    source = "{% for a, b in zip(tags, [1, 2]) %}{{ a }}{{ b }} {% endfor %}"
    assert template(source).render(RECORD).input == "old1 New2"


def test_input_target_and_choices() -> None:
    found = template("{{ text }}: ||| {{ answer_choices[n - 2] }}", "No ||| Yes ||| {{ tags[1] }}").render(RECORD)
    assert (found.input, found.target, found.choices) == (RECORD["text"] + ":", "Yes", ("No", "Yes", "New"))
    assert template("only input").render({}).target is None
    assert template("{{ answer_choices|join(' or ') }}?", "No ||| Yes").render({}).input == "No or Yes?"
    with pytest.raises(TemplateError, match="column 'answer_choices'"):
        template("a").render({"answer_choices": "x"})


def test_a_separator_in_the_data_is_text() -> None:
    record = {"text": "a ||| b", "options": ["x|||y", "z"]}
    found = template("{{ text }} ||| {{ answer_choices[0] }}", "{{ options|join('|||') }}").render(record)
    assert found.parts == ("a ||| b", "x|||y")
    assert found.choices == ("x|||y", "z")


def test_draws_depend_on_seed_name_and_record_alone() -> None:
    source = "{{ choice(['a', 'b', 'c', 'd']) }}{{ ['a', 'b', 'c', 'd']|choice }}{{ 'abcd'|random }}"
    drawn = {(seed, key): template(source).render({}, seed=seed, key=key).input for seed in range(8) for key in ("x", "y")}
    again = {(seed, key): template(source).render({}, seed=seed, key=key).input for seed in range(8) for key in ("x", "y")}
    assert drawn == again
    assert len(set(drawn.values())) > 8
    assert all(set(text) <= set("abcd") and len(text) == 3 for text in drawn.values())


def test_a_template_needs_a_name() -> None:
    with pytest.raises(InputError, match="needs a name"):
        JinjaTemplate(name=" ", source="a")


PIECES = st.sampled_from(
    """{{ }} {% %} {# #} text n tags answers turns . [ ] ( ) { } | , : + - * / % ~ ** == < in not and or is if else elif
    for set endfor endif endset macro include import
    range loop 'a' '' 0 1 9999999999 upper lower join replace split __class__ __init__
    format append default length first items keys attr map |||""".split()
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=25).map(" ".join) | st.text(max_size=40))
def test_anything_is_rendered_or_refused(source: str) -> None:
    try:
        told, size = "", sum(map(len, template(source).render(RECORD).parts))
    except TemplateError as error:
        told, size = str(error), 0
    assert size <= 1_000_000
    assert not told or told.startswith("The template 'asked', line ")


NAMES = st.sampled_from(["text", "n", "share", "yes", "tags", "answers.text", "turns[0].who", "'a b'", "2", "[1, 2]", "none"])
FILTERS = st.sampled_from(
    ["upper", "lower", "trim", "length", "first", "last", "title", "capitalize", "join('-')", "replace('a', 'bb')"]
)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, FILTERS).map(lambda x: f"({x[0]}) | {x[1]}"),
        st.tuples(inner, st.sampled_from(["+", "-", "~", "==", "<", "and", "or", "in", "//", "%"]), inner).map(
            lambda x: f"({' '.join(x)})"
        ),
        st.tuples(inner, inner, inner).map(lambda x: f"({x[0]} if {x[1]} else {x[2]})"),
        st.tuples(inner, st.sampled_from(["[0]", "[-1]", "[1:]", "[:2]"])).map(lambda x: f"({x[0]}){x[1]}"),
        inner.map(lambda x: f"(not {x})"),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(NAMES, grown, max_leaves=6))
def test_expressions_are_jinjas_or_refused(expression: str) -> None:
    source = "{{ " + expression + " }}"
    Environment().parse(source)
    try:
        mine = template(source).render(RECORD).parts
    except TemplateError:
        return
    try:
        theirs = by_jinja(source)
    except (JinjaError, TypeError, ValueError, ArithmeticError) as error:
        raise AssertionError(f"Jinja fails where we do not: {source}") from error
    assert mine == theirs
