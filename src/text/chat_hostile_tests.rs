//! Templates that were made to do harm: each ends soon, with an error that says whose fault it is.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;

fn rendered(source: &str) -> Result<String> {
    let date = "2026-07-05".parse().unwrap();
    let template = ChatTemplate::named("chat_template.jinja", source, Vec::new())?;
    template.render(&[Message::user("hi")], true, date)
}

/// What is said of a template that asks for too much.
fn refused(source: &str) -> String {
    let shown: String = source.chars().take(150).collect();
    let error = match rendered(source) {
        Ok(text) => panic!("{shown}: rendered {} bytes", text.len()),
        Err(error) => error,
    };
    assert_eq!(error.exit_code(), 2, "{shown}: {error}");
    let said = error.to_string();
    assert!(said.starts_with("chat_template.jinja"), "{shown}: {said}");
    assert!(said.len() < 3000, "{shown}: {} bytes", said.len());
    said
}

fn refused_for(what: &str, sources: &[String]) {
    for source in sources {
        let said = refused(source);
        let shown: String = source.chars().take(150).collect();
        assert!(said.contains(what), "{shown}: {said}");
    }
}

/// `body`, as often as a loop can.
fn forever(body: &str) -> String {
    format!(
        "{{% set ns = namespace(s='aaaaaaaaaa', l=[1], d={{}}) %}}\
         {{% for i in range(99999) %}}{{% for j in range(99999) %}}{body}{{% endfor %}}{{% endfor %}}"
    )
}

/// After which `l` is a list of 2^14 lists, each of which is there once.
const SHARED: &str = "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(14) %}\
    {% set ns.l = [ns.l, ns.l] %}{% set ns.m = [ns.m, ns.m] %}{% endfor %}{% set l = ns.l %}";

const WORK: &str = "work of one rendering: more, where the limit is 16777216 steps";
const TEXT: &str = "length of a text: more, where the limit is 32 MiB";

#[test]
fn loops_and_recursion_end() {
    let sources = [
        forever(""),
        forever("{% if i > j %}{% continue %}{% endif %}"),
        forever("{% set x = messages[0].role %}"),
        forever("{% if j in (1, 2, 3) %}{% endif %}"),
        forever("{{ messages|length }}"),
        "{% macro f() %}{% for i in range(99999) %}{{ caller() }}{% endfor %}{% endmacro %}\
         {% call f() %}{% call f() %}{% call f() %}{% endcall %}{% endcall %}{% endcall %}"
            .to_owned(),
        "{% for i in range(9999) %}{% for j in range(9999) if j is nope_or_odd or j > 99999 %}{% endfor %}{% endfor %}"
            .replace("is nope_or_odd or j ", ""),
        "{% macro f(n, a=range(50000)|list) %}{% endmacro %}{% for i in range(99999) %}{{ f(1) }}{% endfor %}"
            .to_owned(),
        "{% for i in range(99999) %}{% set x = dict(**d) if d else '' %}{% set x = range(*[1, 9999]) %}{% endfor %}"
            .to_owned(),
        "{% for i in [1, 2] recursive %}{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}".to_owned(),
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}".to_owned(),
    ];
    refused_for(WORK, &sources);
    let deep = [
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% for i in [1] recursive %}{% set x = loop([1]) %}{% endfor %}",
        "{% block a %}{{ self.a() }}{% endblock %}",
    ];
    refused_for(
        "that run: more, where the limit is 500 levels",
        &deep.map(str::to_owned),
    );
    // The text doubles with every level, and is paid for before the recursion ends.
    let growing = "{% macro f(x) %}{% with %}{% with %}{% for i in [1] %}{{ f([x|tojson|upper]) }}{% endfor %}{% endwith %}\
                   {% endwith %}{% endmacro %}{{ f(1) }}";
    refused_for(WORK, &[growing.to_owned()]);
}

#[test]
fn texts_do_not_grow_without_bound() {
    let begin = "{% set s = 'aaaaaaaaaaaaaaaa' %}";
    let doubled = [
        "{% set s = s + s %}",
        "{% set s = s ~ s %}",
        "{% set s = s * 2 %}",
        "{% set s = 2 * s %}",
        "{% set s %}{{ s }}{{ s }}{% endset %}",
        "{% set s %}{% filter upper %}{{ s }}{{ s }}{% endfilter %}{% endset %}",
        "{% set s = [s, s]|join %}",
        "{% set s = ''.join([s, s]) %}",
        "{% set s = '%s%s'|format(s, s) %}",
        "{% set s = '{}{}'.format(s, s) %}",
        "{% set s = '{0}{0}'.format(s) %}",
        "{% set s = s|replace('aa', 'aaaa') %}",
        "{% set s = s.replace('aa', 'aaaa') %}",
        "{% set s = '%s'|format([s, s]|string) %}",
        "{% set s = [s, s]|tojson %}",
        "{% set s = (s ~ s)|title %}",
        "{% set s = ('\\x07' ~ s ~ s)|tojson %}",
        "{% set s = [s, s]|sum(start='') %}",
        "{% set s = [s, s]|map('upper')|join('-') %}",
        "{% set s = {'a': s, 'b': s}|pprint %}",
        "{% set s = ([s, s]|string)|escape %}",
        "{% set s = d(s) %}",
        "{% set s = s.join('...') %}",
    ];
    let make = "{% macro d(x) %}{{ x }}{{ x }}{% endmacro %}";
    for step in doubled {
        let said = refused(&format!("{make}{begin}{}", step.repeat(60)));
        assert!(said.contains(TEXT) || said.contains(WORK), "{step}: {said}");
    }
    let at_once = [
        "{{ 'a' * 99999999 }}",
        "{{ ('a' * 9999999) * 99999999999999999 }}",
        "{{ [1]|tojson(indent='a' * 9999999) * 9 }}",
        "{{ 'a\na\na\na\na'|indent('a' * 9999999) }}",
        "{{ range(99999)|join('a' * 1000000) }}",
        "{{ ('a' * 1000000).join(range(99999)|map('string')|list) }}",
        "{% set a = 'a' * 100000 %}{{ a.replace('a', a) }}",
        "{% set a = 'a' * 100000 %}{{ a|replace('', a) }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '%*d'|format(999999999, 1) }}",
        "{{ '%.999999999f'|format(1.5) }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 999999999) }}",
        "{{ '{:>{w}}'.format(1, w=999999999) }}",
        "{% set a = 'a' * 1000000 %}{{ ('{0}' * 99999).format(a) }}",
        "{% set a = 'a' * 9999999 %}{{ a }}{{ a }}{{ a }}{{ a }}",
        "{% set a = 'a' * 9999999 %}{{ [a, a, a, a] }}",
        "{% set a = 'a' * 9999999 %}{{ range(99)|map('replace', '1', a)|list }}",
        "{{ raise_exception('a' * 99999999) }}",
    ];
    for source in at_once {
        let said = refused(source);
        assert!(
            said.contains(TEXT) || said.contains(WORK) || said.contains("the prompt"),
            "{source}: {said}"
        );
    }
    // Text of the template itself, which no expression prints.
    let long = "x".repeat(100_000);
    refused(&format!("{{% for i in range(99999) %}}{long}{{% endfor %}}"));
    refused(&format!(
        "{{% set s %}}{{% for i in range(99999) %}}{long}{{% endfor %}}{{% endset %}}"
    ));
    // Many texts, each of which is small enough.
    refused(
        "{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = ns.l + ['a' * 9999999] %}{% endfor %}",
    );
}

#[test]
fn lists_do_not_grow_without_bound() {
    let begin = "{% set l = [1, 2, 3, 4] %}";
    let doubled = [
        "{% set l = l + l %}",
        "{% set l = l * 2 %}",
        "{% set l = (l + l)[0:] %}",
        "{% set l = [l, l]|sum(start=[]) %}",
        "{% set l = (l + l)|list %}",
        "{% set l = (l + l)|reverse %}",
        "{% set l = (l + l)|map('int')|list %}",
        "{% set l = (l + l)|select('number')|list %}",
        "{% set l = (l + l)|sort %}",
    ];
    for step in doubled {
        let said = refused(&format!("{begin}{}", step.repeat(40)));
        assert!(said.contains(WORK), "{step}: {said}");
    }
    let sources = [
        "{{ [1] * 999999999 }}",
        "{{ [1]|batch(9999999999, 1)|list }}",
        "{{ [1]|batch(linecount=9999999999, fill_with=1)|list }}",
        "{{ [1]|slice(9999999999)|list }}",
        "{{ [1]|slice(slices=9999999999)|list }}",
        "{{ (',' * 30000000).split(',')|length }}",
        "{{ ('\n' * 30000000).splitlines()|length }}",
        "{{ (' a' * 15000000).split()|length }}",
        "{{ ('a' * 30000000)|list|length }}",
        "{{ ('a' * 30000000)[::1]|length }}{{ ('a' * 30000000)[::1]|length }}",
    ];
    for source in sources {
        if let Err(error) = rendered(source) {
            assert!(error.to_string().contains("where the limit is") || error.to_string().contains("fails"));
        } else {
            panic!("{source}");
        }
    }
}

#[test]
fn values_inside_of_values_are_bounded() {
    let deep = [
        "{% set ns.l = [ns.l] %}",
        "{% set ns.l = (ns.l,) %}",
        "{% set ns.l = {'a': ns.l} %}",
        "{% set ns.l = {ns.l: 1} %}",
        "{% set ns.l = dict(a=ns.l) %}",
        "{% set ns.l = [ns.l]|list %}",
        "{% set ns.l = ns.l|batch(1) %}",
        "{% set ns.l = ns.l|slice(1) %}",
        "{% set ns.l = [ns.l] + [ns.l] %}",
        "{% set ns.l = [ns.l] * 2 %}",
    ];
    for step in deep {
        for end in ["", "{{ ns.l }}", "{{ ns.l|tojson }}", "{{ ns.l == ns.m }}"] {
            let source = "{% set ns = namespace(l=[1], m=[1]) %}{% for i in range(99999) %}";
            let said = refused(&format!("{source}{step}{{% endfor %}}{end}"));
            assert!(
                said.contains("nesting of a value: more, where the limit is 200 levels")
                    || said.contains(WORK),
                "{step}: {said}"
            );
        }
        // Line by line, without a loop.
        let step = step.replace("ns.l", "l");
        refused(&format!("{{% set l = [1] %}}{}", step.repeat(20_000)));
    }
    // Within one expression, and passed on by macros.
    refused(&format!(
        "{{% macro f(x) %}}{{{{ f(x{}) }}}}{{% endmacro %}}{{{{ f([1]) }}}}",
        "|batch(1)".repeat(200)
    ));
    refused(&format!(
        "{{% macro f(x) %}}{{{{ f({}x{}) }}}}{{% endmacro %}}{{{{ f([1]) }}}}",
        "[".repeat(50),
        "]".repeat(50)
    ));
    // Views of views would take stack for each.
    for step in ["[0:]", "|reverse", " + []", " * 1", "|list", "|map('int')"] {
        let source = format!(
            "{{% set ns = namespace(l=[1, 2]) %}}{{% for i in range(9999) %}}{{% set ns.l = ns.l{step} %}}\
             {{% endfor %}}{{{{ ns.l|length }}}}"
        );
        assert_eq!(rendered(&source).unwrap(), "2", "{step}");
    }
}

#[test]
fn shared_values_are_paid_for_each_time() {
    refused(&SHARED.replace("14", "100"));
    for what in [
        "{{ l }}",
        "{{ l|tojson }}",
        "{{ l|string }}",
        "{{ l|pprint }}",
        "{{ 'a' ~ l }}",
        "{{ l == ns.m }}",
        "{{ l < ns.m }}",
        "{{ 1 < l < ns.m }}",
        "{{ ns.m in [1, l] }}",
        "{{ l is eq(ns.m) }}",
        "{{ [l, ns.m]|sort }}",
        "{{ [l, ns.m]|unique|list }}",
        "{{ [l, ns.m]|min }}",
        "{{ [{'a': l}, {'a': ns.m}]|groupby('a') }}",
        "{{ [{'a': l}, {'a': ns.m}]|selectattr('a', 'equalto', l)|list }}",
        "{{ [1, l].index(ns.m) }}",
        "{{ [1, l].count(ns.m) }}",
        "{{ {l: 1} }}",
        "{{ {}[l] }}",
        "{{ {}.get(l) }}",
        "{{ {}|attr(l) }}",
        "{{ [l]|join }}",
        "{{ 'a'|replace(l, 'b') }}",
        "{{ '%s'|format(l) }}",
        "{{ '{}'.format(l) }}",
        "{{ l|upper }}",
        "{{ l|escape }}",
        "{{ l|wordcount }}",
        "{{ l|indent }}",
        "{{ l|truncate(5) }}",
        "{% for i in [1, 2] %}{{ loop.changed(l) }}{% endfor %}",
        "{{ namespace(a=l) }}",
        "{{ dict(a=l) }}",
        "{{ dict(dict(a=l)) }}",
    ] {
        let said = refused(&format!(
            "{SHARED}{{% for x in range(99999) %}}{what}{{% endfor %}}"
        ));
        assert!(said.contains(WORK), "{what}: {said}");
    }
}

#[test]
fn what_changes_is_stored_nowhere() {
    for source in [
        "{% set a.x = a %}{{ a }}",
        "{% set a.x = [1, {'y': a}] %}",
        "{% set a.x = b %}{% set b.x = a %}",
        "{% set a.x = namespace(y=a) %}",
        "{% set a.x = dict(y=a) %}",
        "{% set a.x = {a: 1} %}",
        "{% set z, a.x = 1, a %}",
        "{% set a.x = [1]|batch(2, a)|list %}",
        "{% set a.x = [1]|slice(2, a)|list %}",
        "{% set a.x = [nope]|map('default', a)|list %}",
        "{% set a.x = [{}]|map(attribute='q', default=a)|list %}",
        "{% set a.x = [{}]|groupby('q', default=a)|list %}",
        "{% for i in [1] %}{{ loop.changed(a) }}{% endfor %}",
    ] {
        let said = refused(&format!(
            "{{% set a = namespace() %}}{{% set b = namespace() %}}{source}"
        ));
        let want = "a namespace cannot be put into a list, a dict or a namespace";
        assert!(said.contains(want), "{source}: {said}");
    }
    for source in [
        "{% set a.x = loop %}",
        "{% set a.x = [loop] %}",
        "{{ loop.changed(loop) }}",
        "{{ loop.changed([[loop]]) }}",
    ] {
        let said = refused(&format!(
            "{{% set a = namespace() %}}{{% for i in [1] %}}{source}{{% endfor %}}"
        ));
        assert!(said.contains("a loop variable cannot be put"), "{source}: {said}");
    }
    let fine = "{% macro f(n, l) %}{{ n.c }}{{ l.index }}{% endmacro %}{% set a = namespace(c=[1]) %}\
        {% for i in [1] %}{% set l = loop %}{{ f(a, l) }}{% set a.c = [a.c] %}{{ a.c }}{% endfor %}";
    assert_eq!(rendered(fine).unwrap(), "[1]1[[1]]");
}

#[test]
fn quadratic_work_is_paid_for() {
    for body in [
        "{% if ns.s == t %}{% endif %}",
        "{% if t in ns.s %}{% endif %}",
        "{{ ns.s.strip('bcdefg') and '' }}",
        "{{ ns.s.find('b') and '' }}",
        "{{ ns.s|length and '' }}",
        "{{ ns.s[-1] and '' }}",
        "{{ ns.s[j] and '' }}",
        "{% if ns.s is upper %}{% endif %}",
        "{% for c in ns.s %}{% break %}{% endfor %}",
        "{{ ns.s[5:6] and '' }}",
        "{{ (ns.s|first) and '' }}",
        "{{ (ns.s|int) and '' }}",
        "{{ ns.s.startswith('b') and '' }}",
        "{{ ns.s.isalpha() and '' }}",
    ] {
        let source = forever(body).replacen(
            "{% for i",
            "{% set ns.s = 'a' * 4000000 %}{% set t = 'a' * 3999999 ~ 'b' %}{% for i",
            1,
        );
        let said = refused(&source);
        assert!(said.contains(WORK), "{body}: {said}");
    }
    for source in [
        "{{ ('a' * 9999999).strip('b' * 9999999 ~ 'a') and '' }}",
        "{{ ('a' * 9999999)|trim('b' * 9999999 ~ 'a') and '' }}",
        "{{ (range(99999)|map('string')|list * 30)|sort|length }}{{ ([['a' * 999999]] * 9999)|sort|length }}",
        "{{ (['a' * 999] * 9999)|sum(start='')|length }}",
        "{{ ('a' * 9999999).startswith(('a' * 9999998 ~ 'b',) * 999, 0) }}",
        "{{ range(9999)|select('in', range(99999))|list|length }}",
    ] {
        assert!(refused(source).contains("where the limit is"), "{source}");
    }
}

#[test]
fn deep_templates_are_told_before_they_are_parsed() {
    let many = |s: &str, n: usize| s.repeat(n);
    let n = 30_000;
    for source in [
        format!("{{{{ {}1{} }}}}", many("[", n), many("]", n)),
        format!("{{{{ {}1{} }}}}", many("(", n), many(")", n)),
        format!("{{{{ {}1{} }}}}", many("{1:", n), many("}", n)),
        format!("{{{{ {}1{} }}}}", many("f(", n), many(")", n)),
        format!("{{{{ {}1{} }}}}", many("x[", n), many("]", n)),
        format!("{{{{ {}1 }}}}", many("not ", n)),
        format!("{{{{ {}1 }}}}", many("-", n)),
        format!("{{{{ {}1 }}}}", many("- ", n)),
        format!("{{{{ 1{} }}}}", many("+1", n)),
        format!("{{{{ 1{} }}}}", many(" or 1", n)),
        format!("{{{{ 1{} }}}}", many("<1", n)),
        format!("{{{{ 1{} }}}}", many("**1", n)),
        format!("{{{{ 1{} }}}}", many(" is odd", n)),
        format!("{{{{ 1{} }}}}", many(" if 1 else 1", n)),
        format!("{{{{ x{} }}}}", many("|e", n)),
        format!("{{{{ x{} }}}}", many(".a", n)),
        format!("{{{{ x{} }}}}", many("[0]", n)),
        format!("{{{{ x{} }}}}", many("()", n)),
        format!("{{{{ x{} }}}}", many("[0:]", n)),
        format!("{{% set x = {}1 %}}", many("-", n)),
        format!("{{% for x in {}1 %}}{{% endfor %}}", many("-", n)),
        format!("{{% if 1 %}}{}{{% endif %}}", many("{% elif 1 %}", n)),
        format!("{{% set {}a{} = 1 %}}", many("(", n), many(")", n)),
        format!("{{% for {}a{} in 1 %}}{{% endfor %}}", many("(", n), many(")", n)),
        format!("{{% filter upper{} %}}{{% endfilter %}}", many("|e", n)),
    ] {
        let said = refused(&source);
        assert!(said.contains("where the limit is 1000 levels"), "{said}");
    }
    for (open, close) in [
        ("{% if 1 %}", "{% endif %}"),
        ("{% for i in x %}", "{% endfor %}"),
        ("{% with %}", "{% endwith %}"),
        ("{% generation %}", "{% endgeneration %}"),
        ("{% macro f() %}", "{% endmacro %}"),
        ("{% filter e %}", "{% endfilter %}"),
        ("{% set x %}", "{% endset %}"),
    ] {
        let said = refused(&format!("{}{}", many(open, 20_000), many(close, 20_000)));
        assert!(
            said.contains("where the limit is 150 levels") || said.contains("does not parse"),
            "{said}"
        );
    }
    // 900 dicts are fewer levels than an expression may have, and more than the parser takes.
    let dicts = format!("{{% set x = {}1{} %}}", many("{'a': ", 900), many("}", 900));
    let said = refused(&dicts);
    assert!(
        said.contains("chat_template.jinja:1") && said.contains("the limit is 150 levels"),
        "{said}"
    );
    assert!(refused(&many("{{ 1 }}", 200_000)).contains("size of a chat template"));
    // What is long and not deep is fine.
    let items = format!("{{{{ [{}]|length }}}}", many("(x|e) ~ 'a', ", 20_000));
    assert_eq!(rendered(&items).unwrap(), "20000");
    let words = format!("{{{{ {}'' }}}}", many("'a' + ", 250));
    assert_eq!(rendered(&words).unwrap().len(), 250);
    let branches = format!(
        "{{% if 0 %}}{}{{% else %}}x{{% endif %}}",
        many("{% elif 0 %}", 900)
    );
    assert_eq!(rendered(&branches).unwrap(), "x");
    assert_eq!(rendered(&many("{{ '' }}", 100_000)).unwrap(), "");
}

#[test]
fn odd_numbers_and_arguments_are_errors_and_no_panics() {
    for source in [
        "{{ 1 % 0 }}",
        "{{ 1 // 0 }}",
        "{{ 1 / 0 }}",
        "{{ 0 ** -1 }}",
        "{{ 10 ** 100000 }}",
        "{{ 170141183460469231731687303715884105727 + 1 }}",
        "{{ 170141183460469231731687303715884105727 * 2 }}",
        "{{ 'abc'[::0] }}",
        "{{ 'abc'[:1:0] }}",
        "{{ [1]|batch(0)|list }}",
        "{{ [1]|slice(0)|list }}",
        "{{ range(1, 2, 0) }}",
        "{{ range(999999999) }}",
        "{{ range(-9223372036854775808, 9223372036854775807) }}",
        "{{ range(9223372036854775807, -9223372036854775808, -1) }}",
        "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}",
        "{{ '1'|int(base=99) }}",
        "{{ 'a'|truncate(1) }}",
        "{{ 'a'.center(9999999999) }}",
        "{{ 'a'.zfill(9999999999) }}",
        "{{ strftime_now('%') }}",
        "{{ strftime_now('%999999999Y') }}",
        "{{ strftime_now('%Y' * 1000) }}",
        "{{ strftime_now('%!') }}",
        "{{ [1]|tojson(indent=9999) }}",
        "{{ 'a'|indent(99999) }}",
        "{{ debug() }}",
        "{% include '/etc/passwd' %}",
        "{% include ['a', 'b'] %}",
        "{% include 'chat_template.jinja' %}",
        "{% import 'config.json' as c %}",
        "{% from 'config.json' import c %}",
        "{% extends 'chat_template.jinja' %}",
        "{{ super() }}",
        "{{ self.a() }}",
        "{{ loop(1) }}",
        "{{ caller() }}",
    ] {
        refused(source);
    }
    // Whatever comes out, nothing ends the process.
    for source in [
        "{{ (-170141183460469231731687303715884105727 - 1) // -1 }}",
        "{{ (-170141183460469231731687303715884105727 - 1) % -1 }}",
        "{{ -(-170141183460469231731687303715884105727 - 1) }}",
        "{{ (-9223372036854775808)|abs }}",
        "{{ 'abc'[-9223372036854775808:9223372036854775807:-9223372036854775808] }}",
        "{{ [1, 2][-9223372036854775808:9223372036854775807] }}",
        "{{ 'abc'[9223372036854775807:-9223372036854775808] }}",
        "{{ [1][-9223372036854775808] }}",
        "{{ 1.5|round(2147483647) }}",
        "{{ 1.5|round(-2147483648) }}",
        "{{ 15|round(-2147483648, 'ceil') }}",
        "{{ 1e400 }}{{ 1e400|int }}{{ (1e400 - 1e400)|int }}",
        "{{ 'a'|truncate(99999999999, true, '', 99999999999) }}",
        "{{ ('9' * 1000000)|int }}{{ ('9' * 1000000)|float }}",
        "{{ '{'.format(1) }}",
        "{{ '{0.a[b]!r:}'.format(1) }}",
        "{{ '%'|format(1) }}",
        "{{ '%('|format(1) }}",
        "{{ 'a'.split('') }}",
        "{{ [messages, none, 1, 'a']|sort }}",
        "{{ {1: 2, 'a': 3, none: 4}|dictsort }}",
        "{{ namespace.x.y }}{{ joiner()() }}",
        "{{ loop }}{{ self }}{{ caller }}",
        "{% for i in [1] %}{{ loop }}{{ loop|tojson }}{% endfor %}",
        "{% macro f() %}{% endmacro %}{{ f }}{{ f|tojson }}",
        "{{ raise_exception }}",
        "{%",
        "{{",
        "{#",
        "{% raw %}",
        "{{ 'a",
        "{% for %}{% set %}{% if %}",
    ] {
        if let Err(error) = rendered(source) {
            assert_eq!(error.exit_code(), 2, "{source}: {error}");
        }
    }
    // Lines beyond what 16 bits count.
    let _ = rendered(&format!("{}{{{{ nope.x.y }}}}", "\n".repeat(70_000)));
}

#[test]
fn messages_of_a_template_are_cut() {
    let said = rendered("{{ raise_exception('é' * 100000) }}x")
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("é… (99000 more characters) (chat_template.jinja:1)"),
        "{said}"
    );
    for source in [
        format!("{{{{ 'a'|{} }}}}", "x".repeat(100_000)),
        format!("{{{{ messages.{}.y }}}}", "x".repeat(100_000)),
        format!("{{{{ [].index('{}') }}}}", "x".repeat(100_000)),
        format!("{{% {} %}}", "x".repeat(100_000)),
        format!("{{{{ strftime_now('{}%') }}}}", "x".repeat(1000)),
    ] {
        refused(&source);
    }
}

#[test]
fn one_rendering_does_not_pay_for_another() {
    let date = "2026-07-05".parse().unwrap();
    let source = "{% for i in range(50000) %}{{ messages[0].content|trim }}{% endfor %}";
    let template = ChatTemplate::new(source, Vec::new()).unwrap();
    for _ in 0..30 {
        assert_eq!(
            template.render(&[Message::user("a")], true, date).unwrap().len(),
            50_000
        );
    }
    assert!(
        template
            .render(&[Message::user("a".repeat(1000))], true, date)
            .is_err()
    );
    assert!(template.render(&[Message::user("a")], true, date).is_ok());
    assert_eq!(
        render_once("{{ messages[0].role }}", &[Message::user("a")], date).unwrap(),
        "user"
    );
}

#[test]
fn long_conversations_have_work_to_spend() {
    // Accumulates, tests and copies as published templates do.
    let source = "{% set ns = namespace(text='', kept=[]) %}{% for m in messages %}\
        {% if m.role == 'user' and 'x' not in m.content %}{% set ns.kept = ns.kept + [m] %}{% endif %}\
        {% set ns.text = '<|' + m['role'] + '|>' + m['content']|trim %}{{ ns.text ~ '\n' }}\
        {{ messages[loop.index0:]|length }}{% endfor %}{{ ns.kept|tojson|length }}";
    let date = "2026-07-05".parse().unwrap();
    let template = ChatTemplate::new(source, Vec::new()).unwrap();
    for (n, size) in [(2000, 200), (200, 50_000), (2, 4_000_000)] {
        let messages: Vec<Message> = (0..n).map(|_| Message::user("word ".repeat(size / 5))).collect();
        assert!(template.render(&messages, true, date).unwrap().len() > n * size);
    }
}
