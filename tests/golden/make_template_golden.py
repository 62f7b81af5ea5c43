"""Renders chat templates with transformers and writes what comes out, for the tests of `src/text/chat.rs`.

    python tests/golden/make_template_golden.py tests/golden/templates.json
    python tests/golden/make_template_golden.py --public FILE_OR_DIR... > target/test-data/public_templates.jsonl

The first writes the golden file: small templates, each for one thing that Jinja2, Python or transformers does. The second
renders whole templates (files *.jinja, and the chat_template of tokenizer_config.json files) over many conversations, for
the ignored test `public_templates_equal_transformers`. Needs transformers 5.24.
"""

import copy
import datetime
import json
import pathlib
import sys

from transformers.utils import chat_template_utils

DATE = "2026-07-25"


class FixedDate(datetime.datetime):
    """The day that `strftime_now` sees."""

    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(DATE)


chat_template_utils.datetime = FixedDate

MESSAGES = [
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "<think>\nx\n</think>\n\nYes"},
    {"role": "user", "content": "more"},
]
VARS = {"bos_token": "<s>", "eos_token": "</s>"}

EXPRESSIONS = r"""
[1, 2, 3, 4][2:0:-1]
[1, 2, 3][1:3:-1]
""[::-1]
[][::-1]
"abcdef"[10:0:-2]
"abc"[-10::-1]
"abc"[:-10:-1]
(1, 2, 3)[::-1]
(1, 2, 3)[::2]
messages[::2]|map(attribute="content")|join
messages[5::-1]|length
(messages + messages)[1::3]|length
"abc"[0:2:0]
none[::-1]
nope[::-1]
joiner(", ")() ~ "x"
[1, 2, 3]|select("odd")|join
tools is iterable
nope is iterable
"abc" is iterable
messages is iterable
messages[0] is iterable
5 is iterable
"abc" is sequence
messages is sequence
messages[0] is sequence
nope is sequence
none is sequence
messages[1:] is sequence
(messages + [1]) is sequence
messages|map(attribute="role")|list is sequence
5 is sequence
"abc" is mapping
messages[0] is mapping
true is number
1 is number
1.5 is number
"1" is number
true is integer
1 is integer
1.0 is integer
1.0 is float
true is boolean
1 is boolean
none is boolean
"a" is string
none is none
nope is none
nope is defined
none is defined
none is undefined
messages.x is defined
messages[0].x is defined
messages[9] is defined
messages[0]["content"] is string
"abc" is lower
"ABC" is upper
range is callable
raise_exception is callable
messages is callable
1 is odd
2 is even
6 is divisibleby 3
6 is divisibleby(3)
1 is in [1,2]
"a" is in "abc"
1 is eq 1
1 is sameas 1
none is sameas none
true is true
1 is true
false is false
"a" "b"
"a" 'b' "c"
"\x41\u00e9\101\/\d\a\0"
"tab\there\nnl"
'it\'s'
"\U0001F600"
"é" ~ 1 ~ none ~ true ~ 1.5
1.0
1e20
1e16
1e15
1.5e-5
0.0001
0.00001
100000000000000000000.0
3.14
-0.0
1/2
4/2
7//2
-7//2
-7%3
7%-3
7.5//2
2**10
2**-1
2**0.5
10**20
1_000
true + 1
"a" + "b"
"a" * 3
[1] * 3
[1] + [2]
(1,2)
(1,)
()
(1,2) + (3,)
[1,"a",none,true,1.5,{"a":"b'c"}]
["it's", 'say "x"', "both ' and \"", "nl\n", "tab\t", "é", "\x00", "\\"]
{"a": 1, "b": [1,2], 3: none}
messages
messages[0]
none
true
nope
"" ~ nope
nope ~ "a"
"abc"[1]
"abc"[-1]
"abc"[::-1]
"abcdef"[1:4]
"abcdef"[-3:]
"abcdef"[4:1:-1]
"abcdef"[::-2]
[1,2,3,4][::-1]
[1,2,3,4][-2:]
[1,2,3,4][:-1]
[1,2,3,4][10:]
(1,2,3)[1:]
messages[1:]|length
messages[::-1][0].content
messages[-1].role
"abc"[10]
[1,2][10]
messages[0][0]
messages["role"]
none.x
none["x"]
"abc".x
5 .x
1 in [1,2]
"a" in "abc"
"role" in messages[0]
"x" in messages[0]
none in [none]
"a" in none
"a" in nope
1 not in [1]
not 1
not none
not ""
not []
not {}
1 < 2 < 3
3 > 2 > 1
1 == 1.0
1 == true
"1" == 1
none == false
nope == none
[1] == [1]
(1,) == [1]
{"a":1} == {"a":1}
"a" < "b"
[1,2] < [1,3]
nope + 1
1 + none
"a" + 1
1 + "a"
none + "a"
nope.x
nope["x"]
nope()
messages.foo()
1 if false
1 if false else 2
(1 if false) is defined
nope or "d"
none or "d"
"" or 0
1 and 2
0 and 2
messages[0].get("role")
messages[0].get("x")
messages[0].get("x", "d")
messages[0].get("x", none)
messages[0].items()|list
messages[0].keys()|list
messages[0].values()|list
messages[0]|items|list
messages[0]|dictsort
{"b":1,"A":2}|dictsort
{"b":1,"a":2}|dictsort(by="value")
{"b":1,"a":2}|dictsort(reverse=true)
"a,b,c".split(",")
"a,b,c".split(",", 1)
"a,b,c".split(",", maxsplit=1)
"a,b,c".split(sep=",")
"a,b,c".rsplit(",", 1)
" a  b c ".split()
" a  b c ".split(none, 1)
" a  b c ".rsplit(none, 1)
" a  b c ".split(maxsplit=1)
"".split()
"".split(",")
"abc".split("")
"a\nb\r\nc\rd\x0be".splitlines()
"a\nb\n".splitlines(true)
"  x ".strip()
"  x ".lstrip() ~ "|"
"  x ".rstrip() ~ "|"
"xxaxx".strip("x")
"xyaxy".lstrip("yx")
"xyaxy".rstrip("yx")
"\x1cx\x1f".strip()
" x ".strip(none)
"abc".startswith("a")
"abc".startswith(("x","a"))
"abc".endswith(("x","c"))
"abc".startswith("b", 1)
"hello world-foo it's".title()
"hELLO".capitalize()
"Hello".swapcase()
"hello"|title
"hello world-foo it's o'neil (x)"|title
"hELLO wORLD"|capitalize
"aXbXc".replace("X","-")
"aXbXc".replace("X","-",1)
"abc".replace("","-")
"aXbXc"|replace("X","-")
"aXbXc"|replace("X","-",1)
"abcabc".find("c")
"abcabc".rfind("c")
"abcabc".find("c", 3)
"abcabc".index("c")
"abc".index("z")
"abcabc".count("b")
"a-b-c".partition("-")
"a-b-c".rpartition("-")
"abc".partition("z")
"abc".removeprefix("a")
"abc".removesuffix("bc")
"7".zfill(3)
"-7".zfill(4)
"a".ljust(3) ~ "|"
"a".rjust(3) ~ "|"
"ab".center(5) ~ "|"
"abc".center(6,"*") ~ "|"
"a".center(4) ~ "|"
"ab".center(7,".") ~ "|"
"a b".isalpha()
"12".isdigit()
"Ab".isupper()
"12".isdecimal()
"12".isnumeric()
"a1".isalnum()
" ".isspace()
"Ab Cd".istitle()
"Straße".casefold()
"{} {}".format(1, "a")
"{0} {1} {0}".format(1, "a")
"{x}".format(x=3)
"{:.2f}".format(3.14159)
"{:>5}|".format("a")
"{:05d}".format(42)
"%s-%s"|format("a", 1)
"%d items"|format(3)
",".join(["a","b"])
",".join([1,2])
["a",1,none]|join(",")
messages|join(",", attribute="role")
messages|join(",")
[1,2]|join
"abc"|join("-")
messages|map(attribute="role")|join(" ")
messages|map(attribute="x", default="d")|list
messages|map("length")|list
["a","b"]|map("upper")|list
["a","b"]|map("replace","a","z")|list
messages|selectattr("role","equalto","user")|list|length
messages|selectattr("role","==","user")|map(attribute="content")|list
messages|selectattr("role")|list|length
messages|selectattr("x")|list|length
messages|selectattr("x","defined")|list|length
messages|rejectattr("role","equalto","user")|list|length
messages|rejectattr("role","in",["user"])|list|length
[1,0,2,none]|select|list
[1,2,3]|select("odd")|list
[1,2,3]|reject("odd")|list
[1,2,3]|select("greaterthan",1)|list
[1,2,1,"a","A"]|unique|list
messages|groupby("role")
messages|groupby("role")|map(attribute="grouper")|list
(messages|groupby("role"))[0].list|length
messages|first
messages|last
[]|first
[]|last
""|first
"abc"|first
"abc"|last
messages|map(attribute="role")|first
(messages|selectattr("role","equalto","user")|list|last).content
nope|default("x")
none|default("x")
""|default("x")
""|default("x",true)
none|default("x",boolean=true)
nope|d("x")
none|d
" a "|trim
"xax"|trim("x")
none|trim
5|trim
"a\nb\n\nc"|indent
"a\nb\n\nc"|indent(2)
"a\nb\n\nc"|indent(2,true)
"a\nb\n\nc"|indent(2,first=true,blank=true)
"a\nb"|indent("> ")
"a\nb"|indent(width=3)
"abc"|upper
"ABC"|lower
5|upper
none|upper
"abc"|length
messages|length
messages|count
none|length
nope|length
5|length
messages[0]|length
"abc"|list
messages[0]|list
(1,2)|list
range(3)|list
range(5,0,-2)|list
range(0)|list
5|list
5|string
none|string
messages|string|length
1.0|string
"3"|int
"3.7"|int
"x"|int
"x"|int(7)
"0x1A"|int(base=16)
3.7|int
-3.7|int
none|int
true|int
"3.5"|float
"x"|float
"x"|float(1.5)
3|float
3.14159|round
3.14159|round(2)
2.5|round
3.5|round
3.14159|round(2,"floor")
3.14159|round(2,"ceil")
5|round
-5|abs
"<a>"|safe
"<a>&'\""|escape
"<a>&'\""|e
"<a>"|escape ~ "<b>"
[3,1,2]|sort
[3,1,2]|sort(reverse=true)
["b","A","a"]|sort
["b","A","a"]|sort(case_sensitive=true)
messages|sort(attribute="content")|map(attribute="content")|list
[3,1,2]|max
[3,1,2]|min
[]|max
[1,2,3]|sum
[1,2,3]|reverse|list
"abc"|reverse
[1,2,3,4,5]|batch(2)|list
[1,2,3,4,5]|batch(2,0)|list
[1,2,3,4,5]|slice(2)|list
"hello world foo"|wordcount
"hello world foo bar"|truncate(10)
"hello world foo bar"|truncate(10,true,"..")
"abc"|attr("x")
"a"|nofilter
5 is notest
"<&>'é😀\u2028\x7f"|tojson
{"a":1,"b":[1.0,none,true,"x"]}|tojson
{"a":1,"b":[]}|tojson(indent=2)
{"é":1}|tojson(ensure_ascii=true)
{"é":1}|tojson(true)
{"a":1}|tojson(false, 2)
{"a":[1,2]}|tojson(separators=(",",":"))
{"a":[1,2]}|tojson(indent=2,separators=(",",": "))
{"a":[1,2]}|tojson(indent="\t")
{"a":[1,2]}|tojson(indent=0)
nope|tojson
1e20|tojson
1e-7|tojson
1e16|tojson
123456789012345678901234567890|tojson
(1,2)|tojson
"a\u0000\x1f"|tojson
"a" is filter
"tojson" is filter
"odd" is test
dict(a=1,b=2)
dict(messages[0], x=1)
namespace(a=1).a
namespace(a=1).b
namespace({"a":1}).a
range(3)[1]
range(3)|last
strftime_now("%Y-%m-%d %d %b %B %A %H:%M %j %-d %e %y")
messages[0]|map("upper")|list
"a"|upper|lower|title
[[1,2],[3]]|sum(start=[])
"%c"|format(65)
"abc".isascii()
[1,2,3].index(2)
[1,2,3].count(2)
[1].append(2)
{"a":1}.update({"b":2})
{"a":1}.pop("a")
{"a":1}.copy()
[1].copy()
{"a":1}.setdefault("a",2)
"a".join("bcd")
"x" * 0
"ab" * true
-1|abs
1|float
not nope
nope is not defined
messages is not none and messages is not mapping
messages[0].role == "user" and not (messages[1].role == "user")
(messages|length) % 2 == 1
loop is defined
caller is defined
messages | tojson(indent=2)
"a" ~ "b" if true else "c"
[1,2,3][1:][0]
messages[messages|length - 1].content
{"a": 1}["a"]
{"items": 5}["items"]
3 | int | string + "x"
1 + 2 * 3 ** 2
-2 ** 2
2 ** 3 ** 2
10 // 3 * 3
5 % 3 ~ "a"
"ñ"|upper
"ŉ".upper()
"İ".lower()
'\\n'
'\\\\'
"\\" ~ "x"
"a" "b" | upper
("a" "b")|length
0x10
0b11
0o17
1e3
1.5e3
.5
true and false
True and False
None
none is None
'{{' ~ '}}'
'{%' ~ '%}'
'{#'
'#}'
"a" is eq("a")
2 is between
'a' if messages else 'b'
[x for x in y]
lambda
'a' not in 'abc'
not 'a' in 'abc'
1 == 1 == 1
(1, 2) | join('-')
messages | selectattr('role', 'in', ['user', 'tool']) | list | count
messages | map(attribute='content') | map('trim') | join('|')
messages | list | tojson
messages | rejectattr('role', 'eq', 'user') | map(attribute='role') | join
messages[0] | tojson(indent=none)
messages | batch(2) | map('length') | list
1 // 0
1 / 0
1 % 0
1.5 % 1
"abc" | select('in', 'ab') | list
[{'a': [5, 6]}] | map(attribute='a.1') | list
[{'a': 1}, {'a': 2}] | selectattr('a', 'gt', 1) | list
[{'a': 2}, {'a': 1}] | sort(attribute='a') | map(attribute='a') | join(',')
[1, 2] is sameas [1, 2]
"a" is sameas "a"
messages|length is number
nope is iterable and nope | length > 0
tools is iterable and tools | length > 0
'x' | default(nope.y)
"Hi {name}".format(name="x")
"a%20b"|replace("%20"," ")
'a' ~ ('b' * 2) ~ [1]
10 | string | length
True | string
3.0 | int
1000000 * 1000000 * 1000000 * 1000000
9223372036854775807 + 1
1 is gt 0
{}|length
{} is mapping
{} == {}
'abc' | reverse | upper
['a', 'b'] | last | upper
'a b c' | replace(' ', '') | length
messages[0].content | truncate(4, True, '')
"" is string
[] is sequence
{}.items() | list
{'a': none}.a is none
{'a': none}.get('a', 'd')
'hello'[1:3] ~ 'x'
'hello'[:nope]
'hello'[none:2]
[0, 1, 2][true]
'a' < 'B'
['a', ['b']] | string
{'k': (1, 'x')}
'a\tb' | string
1.0 | tojson
100.0
123456789.123456789
1e100
0.1 + 0.2
1/3
2.0 ** 0.5
5 // 2.0
7 / 2
6 / 2
1e400
'inf' | float
'nan' | float
'1_000' | int
' 12 ' | int
'12abc' | int
'1e3' | int
'1e3' | float
'½' | int
'abc' | wordcount
messages | xx
'a' is xx
xx()
'a'.xx()
raise_exception("no")
raise_exception()
"a
messages[0]['content']['x']
messages[0].content.x
messages[0].content[0]
(messages | last)['role']
'\n' in 'a\nb'
['a', 'b']|join('\n')
messages|map(attribute='content')|join('\n\n')
'a' if a is defined and a is not none else 'b'
''.join(['a', 'b'])
messages[0].content.split(' ')[0]
messages[1].content.split('</think>')[-1].lstrip('\n')
messages[1].content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n')
messages[0].tool_calls is defined and messages[0].tool_calls
messages[0].tool_calls or 'none'
messages[0]['tool_calls']|length
(messages[0].name or '') | upper
loop.index
{'a':1}|tojson|safe
[1,2,3]|map('string')|join
'abc'|map('upper')|list
bos_token + 'x'
unk_tok + 'x'
'x' + unk_tok
"""

TEMPLATES = [
    '{{ "a\\\nb" }}',
    '{{ {"b":1,"a":{}}|tojson(indent=4, sort_keys=true) }}',
    '{{ {"a": {"b": {"c": 1}}}.a.b.c }}',
    "{{ [{'a': {'b': 3}}] | map(attribute='a.b') | list }}",
    '{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.cycle("a","b") }}{{ loop.previtem.role if loop.previtem is defined }}{{ loop.nextitem.role if loop.nextitem is defined }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.changed(m.role) }}{% endfor %}',
    '{% for x in [] %}a{% else %}b{% endfor %}',
    '{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}',
    '{% for k in messages[0] %}{{ k }};{% endfor %}',
    '{% for k, v in messages[0]|items %}{{ k }}={{ v }};{% endfor %}',
    '{% for m in messages if m.role == "user" %}{{ loop.index }}{{ m.content }}{% endfor %}',
    '{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }}{% if loop.last %}{% break %}{% endif %}{% endfor %}',
    '{% set ns = namespace(x=0, y="a") %}{% for m in messages %}{% set ns.x = ns.x + 1 %}{% endfor %}{{ ns.x }}{{ ns.y }}',
    '{% set x = 1 %}{% for m in messages %}{% set x = 2 %}{% endfor %}{{ x }}',
    '{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}',
    '{% set a, b = 1, 2 %}{{ a }}{{ b }}',
    '{% set x %} hello {{ messages[0].role }} {% endset %}[{{ x }}]{{ x|length }}',
    '{% set x | upper %}hello{% endset %}{{ x }}',
    '{% filter upper %}hello {{ messages[0].role }}{% endfilter %}',
    '{% macro f(a, b="d", c=none) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(1, c=3) }}{{ f() }}',
    '{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in{% endcall %}',
    '{% macro f() %}<{{ caller("x") }}>{% endmacro %}{% call(a) f() %}in{{ a }}{% endcall %}',
    '{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}',
    '{% macro f(n) -%}\n   {{- n }}\n{%- endmacro %}\n{{ f(3) }}\n',
    '{{ f(1) if f is defined else "no" }}{% macro f(n) %}{{ n }}{% endmacro %}',
    '{% macro f() %}{{ messages|length }}{{ x }}{% endmacro %}{% set x = 5 %}{{ f() }}',
    '{% for item in [[1,[2,[3]]]] recursive %}{{ item[0] }}{% if item[1] %}{{ loop([item[1]]) }}{% endif %}{% endfor %}',
    '{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}',
    '{% generation %}x{% set y = 1 %}{% endgeneration %}{{ y }}',
    '{%- for m in messages -%}\n    {%- generation -%}\n    {{ m.content }}\n    {%- endgeneration %}\n{% endfor %}',
    '{% raw %}{{ x }}{% y %}{% endraw %}',
    '{# comment #}a{#- c -#} b',
    'a\n{% if true %}\n  b\n{% endif %}\nc\n',
    'a\r\n{% if true %}\r\n  b\r\n{% endif %}\r\nc\r\n',
    'a\n  {%- if true +%}\n  b\n  {%+ endif %}\nc\n\n',
    '  {% if true %}x{% endif %}  \n  {{ 1 }}  \n',
    '{{ 1 }}\n{{ 2 }}\n',
    '{% if true %}\n\n\nx{% endif %}',
    'a\n{# c #}\nb',
    'a\n  {# c #}  \nb',
    'a {{- " b " -}} c',
    'a\n{{- "b" -}}\nc',
    'a\xa0\n{%- if true %}x{% endif %}',
    '\u2003{%- if true %}x{% endif -%}\u3000z',
    '{% if messages[5].role == "x" %}a{% endif %}',
    '{% if messages[0].x.y %}a{% endif %}',
    '{% for x in none %}a{% endfor %}',
    '{% for x in nope %}a{% endfor %}',
    '{% for x in 5 %}a{% endfor %}',
    '{% for x in tools %}a{% endfor %}',
    '{% for a, b in [1] %}a{% endfor %}',
    '{% for a, b in [[1,2],[3,4]] %}{{ a }}{{ b }}{% endfor %}',
    '{% if %}',
    '{% if true %}',
    '{% foo %}',
    '{% if false %}{{ "a"|nofilter }}{% endif %}x',
    '{% if false %}{{ 1 is notest }}{% endif %}x',
    '{% do 1 %}',
    '{% set x = [] %}{% do x.append(1) %}',
    '{% include "x" %}',
    '{% import "x" as y %}',
    '{% extends "x" %}',
    '{% block a %}b{% endblock %}',
    '{% trans %}a{% endtrans %}',
    '{% debug %}',
    '{% for i in range(3) %}{{ i }}{% if not loop.last %},{% endif %}{% endfor %}',
    '{% for i in range(2) %}{% for j in range(2) %}{{ loop.index }}{{ loop.depth }}{% endfor %}{% endfor %}',
    '{% for i in range(2) %}{% set outer = loop %}{% for j in range(2) %}{{ outer.index }}{% endfor %}{% endfor %}',
    '{% for m in messages %}{% set ns = namespace(f=false) %}{% if m.role == "user" %}{% set ns.f = true %}{% endif %}{{ ns.f }}{% endfor %}',
    '{% set d = {"a": 1} %}{% set d = dict(d, b=2) %}{{ d }}',
    '{% set d = {} %}{% set _ = d.update({"a": 1}) %}{{ d }}',
    '{% set l = [1] %}{% set l = l + [2] %}{{ l }}',
    '{% set l = [1] %}{% set _ = l.append(2) %}{{ l }}',
    '{% set x = "a" if true %}{{ x }}',
    '{% elif %}',
    '{% if 1 %}a{% elif 2 %}b{% else %}c{% endif %}',
    '{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}',
    '{% if not date is defined %}{% set date = "d" %}{% endif %}{{ date }}',
    '{%- set loop_messages = messages[1:] if messages[0].role == "system" else messages -%}{{ loop_messages|length }}',
    '{{- bos_token }}{{ eos_token is defined }}',
    '{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b is defined }}',
    '{% macro r(x) %}{% if x is mapping %}M{% elif x is string %}S{% elif x is iterable %}I{% else %}O{% endif %}{% endmacro %}{{ r({}) }}{{ r("a") }}{{ r([1]) }}{{ r(1) }}{{ r(none) }}',
    '{% set content %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}{{ content | trim | length }}',
    '{% if messages[0]["role"] == "system" %}{% set m = messages[0]["content"] %}{% endif %}{{ m is defined }}',
    '{{ "a" }}{{"b"}}{{-"c"-}}',
    "{%- if messages | selectattr('role', 'equalto', 'system') | list | length > 0 %}y{% else %}n{% endif %}",
    '{%- macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}',
    '{% set x = namespace(items=[1,2]) %}{{ x.items }}',
    "{% set text = 'a' %}{% set text = text ~ 'b' %}{{ text }}",
    "{% for c in 'abc' %}{{ c }}{% endfor %}",
    '{% for x in messages|reverse %}{{ x.role }}{% endfor %}',
    '{% for x in messages[::-1] %}{{ x.role }}{% endfor %}',
    '{% set i = messages|length - 1 %}{% for m in messages %}{{ i - loop.index0 }}{% endfor %}',
    "{% for x in {'b':1,'a':2}|dictsort %}{{ x[0] }}{{ x[1] }}{% endfor %}",
    '{% set a = true %}{{ a|string|lower }}',
    "{% if '</think>' in messages[1].content %}y{% endif %}",
    '{%set x=1%}{{x}}',
    '{%-set x=1-%} {{-x-}} ',
    '{% if true -%} a {%- endif %}',
    '{{ messages is string }}{{ messages is iterable and messages is not string and messages is not mapping }}',
    '{% set x = 5 %}{{ x if x > 3 else -x }}',
    "{% for m in messages %}{{- '<|' + m.role + '|>\n' + m.content|trim + '<|end|>\n' -}}{% endfor %}",
    "{{ '<|im_start|>' + messages[0]['role'] + '\n' }}{{ eos_token }}",
]


def render(source, messages, tools, add_generation_prompt, variables):
    """The text, or what was raised: "refusal" for the template's own raise_exception, "fault" for anything else."""
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            [copy.deepcopy(messages)],
            tools=tools,
            chat_template=source,
            add_generation_prompt=add_generation_prompt,
            **variables,
        )
        return {"text": texts[0]}
    except Exception as error:
        kind = "refusal" if type(error).__name__ == "TemplateError" else "fault"
        return {kind: str(error)}


def small_cases():
    sources = ["{{ %s }}" % line for line in EXPRESSIONS.strip().split("\n")] + TEMPLATES
    return [{"source": s, **render(s, MESSAGES, None, True, VARS)} for s in sources]


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def system(text):
    return {"role": "system", "content": text}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The \"weather\" <now> & 'then'",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "A city, é"},
                    "days": {"type": "integer", "default": 3, "enum": [1, 2]},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "nothing", "description": "-", "parameters": {"type": "object", "properties": {}}},
    },
]
CALL = {
    "type": "function",
    "id": "abc123def",
    "function": {"name": "weather", "arguments": {"city": "<é>", "days": 1.5, "list": [1, 2.0, None, True]}},
}
ANSWER = {"role": "tool", "name": "weather", "tool_call_id": "abc123def", "content": "3"}
CONVERSATIONS = {
    "user": ([user("Hi")], None),
    "odd text": ([user("  Héllo 'w\"o' <|x|>\n\nfoo & <b>\r\n ")], None),
    "system": ([system("Be X."), user("Hi")], None),
    "turns": ([user("Hi"), assistant("Yes"), user("More")], None),
    "thoughts": (
        [system("S\n"), user("Hi"), assistant("<think>\nhm\n</think>\n\nYes "), user("More"), assistant("Fin")],
        None,
    ),
    "long": ([system("S")] + [f(str(i)) for i in range(4) for f in (user, assistant)] + [user("z")], None),
    "assistant first": ([assistant("a"), user("b")], None),
    "two users": ([user("a"), user("b")], None),
    "system alone": ([system("a")], None),
    "system inside": ([user("a"), system("b"), assistant("c")], None),
    "empty": ([user(""), assistant(""), user("x")], None),
    "another role": ([{"role": "critic", "content": "a"}], None),
    "tools": ([user("Weather?")], TOOLS),
    "tools and system": ([system("Be nice."), user("Weather?")], TOOLS),
    "call": ([user("W?"), assistant("", tool_calls=[CALL]), ANSWER, assistant("3 degrees")], TOOLS),
    "call alone": ([user("W?"), {"role": "assistant", "tool_calls": [CALL]}, ANSWER], TOOLS),
    "two calls": ([user("W?"), assistant("", tool_calls=[CALL, CALL]), ANSWER, ANSWER], TOOLS),
    "reasoning": ([user("q"), assistant("a", reasoning_content="because"), user("r")], None),
    "parts": ([{"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "you"}]}], None),
}


def public_templates(paths):
    for path in paths:
        path = pathlib.Path(path)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.suffix == ".jinja":
                with open(file, encoding="utf-8", newline="") as handle:
                    yield str(file), handle.read(), VARS
            elif file.name == "tokenizer_config.json":
                config = json.loads(file.read_text(encoding="utf-8"))
                template = config.get("chat_template")
                variables = {}
                for key in ("bos_token", "eos_token", "unk_token", "pad_token"):
                    token = config.get(key)
                    if token:
                        variables[key] = token if isinstance(token, str) else token["content"]
                named = template if isinstance(template, list) else [{"name": "", "template": template}]
                for entry in named:
                    if entry["template"]:
                        yield f"{file} {entry['name']}", entry["template"], variables


def main():
    if sys.argv[1] != "--public":
        golden = {"date": DATE, "messages": MESSAGES, "vars": VARS, "cases": small_cases()}
        with open(sys.argv[1], "w", encoding="utf-8") as handle:
            json.dump(golden, handle, indent=1, ensure_ascii=True)
            handle.write("\n")
        return
    for name, source, variables in public_templates(sys.argv[2:]):
        for conversation, (messages, tools) in CONVERSATIONS.items():
            for add in (True, False):
                # transformers gives templates a message's reasoning under two names.
                seen = chat_template_utils._alias_reasoning_fields(copy.deepcopy(messages))
                case = {"name": name, "conversation": conversation, "add_generation_prompt": add, "source": source}
                case |= {"messages": seen, "tools": tools, "vars": variables}
                print(json.dumps(case | render(source, messages, tools, add, variables)))


if __name__ == "__main__":
    main()
