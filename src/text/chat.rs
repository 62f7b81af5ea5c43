//! Chat templates as Hugging Face's transformers renders them.

use std::fmt;
use std::str::FromStr;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use minijinja::{Environment, Value};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::jinja_compile::{Compiled, kept};
use super::{jinja, jinja_source, jinja_work as work};
use crate::data::Message;
use crate::error::{Error, Result};
use crate::file::guard::guard;
use crate::file::limits;

/// The date a template's `strftime_now` sees.
///
/// Some templates write today's date into the system turn; a run that must repeat fixes it (`--template-date`). Written
/// as `2026-07-25` (midnight) or `2026-07-25T14:30:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TemplateDate(NaiveDateTime);

impl TemplateDate {
    /// Midnight of a day.
    #[must_use]
    pub fn new(day: NaiveDate) -> Self {
        Self(day.and_time(NaiveTime::MIN))
    }

    /// Midnight of the day it is now, in the local time zone. Call it once a run and write it into the run's config.
    #[must_use]
    pub fn today() -> Self {
        Self::new(chrono::Local::now().date_naive())
    }

    pub(super) fn date_time(self) -> NaiveDateTime {
        self.0
    }
}

impl FromStr for TemplateDate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .map(Self::new)
            .or_else(|_| NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S").map(Self))
            .map_err(|_| {
                Error::user(format!(
                    "template date {text:?}: write it as 2026-07-25 or 2026-07-25T14:30:00"
                ))
            })
    }
}

impl fmt::Display for TemplateDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.time() == NaiveTime::MIN {
            write!(f, "{}", self.0.date())
        } else {
            write!(f, "{}", self.0.format("%Y-%m-%dT%H:%M:%S"))
        }
    }
}

impl TryFrom<String> for TemplateDate {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TemplateDate> for String {
    fn from(date: TemplateDate) -> Self {
        date.to_string()
    }
}

/// A compiled chat template.
///
/// The environment is that of transformers' `apply_chat_template`: `trim_blocks`, `lstrip_blocks`, loop controls, Python's
/// methods on strings, lists and dicts, `raise_exception`, `strftime_now`, a `tojson` that escapes no HTML, `tools` and
/// `documents` as `None`, and the special tokens as variables. `{% generation %}` blocks are rendered as plain text.
pub struct ChatTemplate {
    environment: Environment<'static>,
    compiled: Compiled<'static>,
    /// What messages call it: the file it came from.
    name: String,
    source: String,
    vars: Vec<(String, String)>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("source", &self.source)
            .field("vars", &self.vars)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles a template. `vars` are the special tokens by the names templates use (`bos_token`, `eos_token`, …).
    ///
    /// # Errors
    /// A user error with the line when the template does not parse.
    pub fn new(source: &str, vars: Vec<(String, String)>) -> Result<Self> {
        Self::named("chat template", source, vars)
    }

    /// As [`ChatTemplate::new`] for a template from a file, which messages name.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn named(name: &str, source: &str, vars: Vec<(String, String)>) -> Result<Self> {
        let text = rewritten(name, source)?;
        Ok(Self {
            environment: jinja::environment(),
            compiled: compiled(kept(name), kept(&text))?,
            name: name.to_owned(),
            source: source.to_owned(),
            vars,
        })
    }

    /// The template's text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt text of a conversation. `add_generation_prompt` opens the assistant's turn at the end. The text holds
    /// its special tokens (BOS too, where the template writes one): encode it with `add_special = false`.
    ///
    /// # Errors
    /// A user error with the template's own message when it refuses the conversation (roles out of
    /// order, no system turn allowed, …), and one with file and line when the template fails or
    /// does something unsupported.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        date: TemplateDate,
    ) -> Result<String> {
        self.render_with(messages, None, add_generation_prompt, date)
    }

    /// As [`ChatTemplate::render`], with the tools that the assistant may call: a list of JSON
    /// schemas, or none.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_with(
        &self,
        messages: &[Message],
        tools: Option<&Json>,
        add_generation_prompt: bool,
        date: TemplateDate,
    ) -> Result<String> {
        let messages = values_of(messages);
        let tools = tools.map_or_else(|| ().into(), jinja::from_json);
        self.fill(messages, tools, add_generation_prompt, date)
    }

    /// As [`ChatTemplate::render`] for messages with other fields than role and content, and tools.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_json(
        &self,
        messages: &Json,
        tools: &Json,
        add_generation_prompt: bool,
        date: TemplateDate,
    ) -> Result<String> {
        let [messages, tools] = [messages, tools].map(jinja::from_json);
        self.fill(messages, tools, add_generation_prompt, date)
    }

    fn fill(&self, messages: Value, tools: Value, open: bool, date: TemplateDate) -> Result<String> {
        let vars = self
            .vars
            .iter()
            .map(|(key, token)| (key.as_str(), token.as_str()));
        let context = Context {
            messages,
            tools,
            open,
            date,
        };
        context.render(&self.name, &self.compiled, &self.environment, vars)
    }
}

/// Renders a template once: for a template that is not kept.
///
/// # Errors
/// As [`ChatTemplate::named`] and [`ChatTemplate::render`].
pub fn render_once(source: &str, messages: &[Message], date: TemplateDate) -> Result<String> {
    let name = "chat template";
    let text = rewritten(name, source)?;
    let compiled = compiled(name, &text)?;
    let context = Context {
        messages: values_of(messages),
        tools: ().into(),
        open: true,
        date,
    };
    context.render(name, &compiled, &jinja::environment(), [])
}

/// The template for minijinja.
fn rewritten(name: &str, source: &str) -> Result<String> {
    limits::TEMPLATE_SIZE.check(name, source.len())?;
    jinja_source::rewrite(source).map_err(|fault| match fault {
        jinja_source::Fault::Syntax(e) => {
            Error::user(format!("{name}: the chat template does not parse: {e}"))
        }
        jinja_source::Fault::Nesting(line) => limits::TEMPLATE_NESTING.exceeded(format_args!(
            "{name}:{line}: the chat template is nested too deeply"
        )),
    })
}

fn compiled<'a>(name: &'a str, text: &'a str) -> Result<Compiled<'a>> {
    Compiled::new(name, text, &jinja::syntax()?)?.map_err(|e| jinja::explain_syntax(&e, name))
}

fn values_of(messages: &[Message]) -> Value {
    messages
        .iter()
        .map(|m| Value::from_pairs([("role", m.role.as_str()), ("content", m.content.as_str())]))
        .collect()
}

/// What a template is rendered with.
struct Context {
    messages: Value,
    tools: Value,
    open: bool,
    date: TemplateDate,
}

impl Context {
    fn render<'a, 'v>(
        self,
        name: &str,
        compiled: &Compiled<'a>,
        environment: &Environment<'a>,
        vars: impl IntoIterator<Item = (&'v str, &'v str)>,
    ) -> Result<String> {
        let input = work::size(&self.messages).saturating_add(work::size(&self.tools));
        let mut context: Vec<(&str, Value)> = vec![
            ("messages", self.messages),
            ("tools", self.tools),
            ("documents", Value::from(())),
            ("add_generation_prompt", self.open.into()),
            ("strftime_now", jinja::strftime_now(self.date)),
        ];
        context.extend(vars.into_iter().map(|(key, token)| (key, token.into())));
        guard(format_args!("{name}: the chat template"), || {
            work::begin(input);
            let text = compiled
                .render(environment, Value::from_pairs(context))
                .map_err(|e| jinja::explain(&e, name))?;
            limits::TEMPLATE_TEXT.check(format_args!("{name}: the prompt"), text.len())?;
            Ok(text)
        })
    }
}

#[cfg(test)]
#[path = "chat_hostile_tests.rs"]
mod hostile_tests;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn date() -> TemplateDate {
        "2026-07-05".parse().unwrap()
    }

    fn render(source: &str, messages: &[Message]) -> Result<String> {
        let vars = vec![("bos_token".to_owned(), "<s>".to_owned())];
        ChatTemplate::new(source, vars)?.render(messages, true, date())
    }

    #[test]
    fn whitespace_is_trimmed_as_in_transformers() {
        let source = "{% for m in messages %}\n  {% if m.role == 'user' %}\n[{{ m['content'] }}]\n  {% endif %}\n{% endfor %}\n";
        let got = render(source, &[Message::user("a"), Message::user("<b> & 'é'")]).unwrap();
        assert_eq!(got, "[a]\n[<b> & 'é']\n");
    }

    #[test]
    fn variables_and_python_methods() {
        let source = "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ add_generation_prompt }}\
            {{ messages[::-1][0].content.split('|')[-1].strip() }}{{ messages[-1].get('name') }}\
            {% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.content.upper() }}{% break %}{% endfor %}";
        let messages = [
            Message::user("a"),
            Message::assistant("b| c "),
            Message::user("d|e"),
        ];
        assert_eq!(render(source, &messages).unwrap(), "<s>TrueTrueeNoneB| C ");
    }

    #[test]
    fn tojson_writes_what_python_writes() {
        let source = r#"{{ {"b": "<é>", "a": [1, 2.0, none, true], "c": {}} | tojson }}"#;
        let want = r#"{"b": "<é>", "a": [1, 2.0, null, true], "c": {}}"#;
        assert_eq!(render(source, &[]).unwrap(), want);
        let source = r#"{{ {"b": ["x"], "a": []} | tojson(indent=2, sort_keys=true) }}"#;
        let want = "{\n  \"a\": [],\n  \"b\": [\n    \"x\"\n  ]\n}";
        assert_eq!(render(source, &[]).unwrap(), want);
        let source = r#"{{ {"é": "😀\n"} | tojson(ensure_ascii=true, separators=[",", ":"]) }}"#;
        let want = r#"{"\u00e9":"\ud83d\ude00\n"}"#;
        assert_eq!(render(source, &[]).unwrap(), want);
    }

    #[test]
    fn the_date_is_the_callers() {
        let source = "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%-d. %B, %A %H:%M') }}";
        assert_eq!(render(source, &[]).unwrap(), "05 Jul 2026 5. July, Sunday 00:00");
        let error = render("{{ strftime_now('%Q') }}", &[]).unwrap_err().to_string();
        assert!(error.contains("%Q"), "{error}");
        // The two ways Llama 3's templates come to the date of their system turn: a constant, and a question.
        let fixed = "{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{{ date_string }}";
        assert_eq!(render(fixed, &[]).unwrap(), "26 Jul 2024");
        let asked = "{%- if not date_string is defined %}{%- if strftime_now is defined %}\
            {%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}\
            {%- endif %}{{ date_string }}";
        assert_eq!(render(asked, &[]).unwrap(), "05 Jul 2026");
    }

    #[test]
    fn tools_are_what_the_caller_gives() {
        let source = "{% if tools %}{{ tools | tojson }}{% else %}{{ tools is none }}{% endif %}";
        let template = ChatTemplate::new(source, vec![]).unwrap();
        let tools = serde_json::json!([{"type": "function", "function": {"name": "f"}}]);
        let with = |tools| template.render_with(&[], tools, true, date()).unwrap();
        // Keys stay in the file's order, as Python keeps them.
        assert_eq!(
            with(Some(&tools)),
            r#"[{"type": "function", "function": {"name": "f"}}]"#
        );
        assert_eq!(with(None), "True");
        // Python's constants are what json.dumps writes for them.
        let tools = crate::data::json::parse_python_json("[NaN, -Infinity, Infinity]").unwrap();
        assert_eq!(with(Some(&tools)), "[NaN, -Infinity, Infinity]");
    }

    #[test]
    fn generation_blocks_are_plain_text() {
        let source = "a{% generation %}b{%- endgeneration -%}\n c {%- generation -%} d{% endgeneration %}\n";
        assert_eq!(render(source, &[]).unwrap(), "abcd");
    }

    #[test]
    fn refusals_and_syntax_errors_reach_the_user() {
        let error = render("\n{{ raise_exception('no system turn here') }}", &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("no system turn here"), "{error}");
        let error = render("\n\n{% if %}", &[]).unwrap_err();
        assert!(error.to_string().contains("chat template:3"), "{error}");
        let error = render("{{ messages[0].content.frobnicate() }}", &[Message::user("a")]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("frobnicate"), "{error}");
    }

    #[test]
    fn a_fault_of_the_template_names_its_file_and_line() {
        let error = |source: &str| -> String {
            let template = ChatTemplate::named("chat_template.jinja", source, Vec::new());
            let text = template.and_then(|t| t.render(&[Message::user("a")], true, date()));
            let error = text.unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        for (source, what) in [
            ("\n\n{{ messages[7].role }}", "undefined"),
            ("\r\n\r\n{% for x in tools %}{% endfor %}", "None is not iterable"),
            ("\r\r{{ 'a' + 1 }}", "+"),
        ] {
            let text = error(source);
            assert!(
                text.starts_with("chat_template.jinja:3: the chat template fails"),
                "{text}"
            );
            assert!(
                text.contains(what) && text.contains("not the conversation's"),
                "{text}"
            );
        }
        let text = error("\n\n{{ 'a'|frobnicate }}");
        assert!(
            text.starts_with(
                "chat_template.jinja:3: the chat template uses what this program's Jinja does not have"
            ) && text.contains("frobnicate"),
            "{text}"
        );
        assert!(error("a\n{% if %}").starts_with("chat_template.jinja:2: the chat template does not parse"));
        assert!(error("a\n{{ '\\N{BULLET}' }}").contains("does not parse: line 2"));
        let text = error("\n{{ raise_exception('roles must alternate') }}");
        let want =
            "the chat template refuses this conversation: roles must alternate (chat_template.jinja:2)";
        assert_eq!(text, want);
    }

    /// Compares a case of `tests/golden/make_template_golden.py`; what differs, if anything.
    fn differs(case: &Json, messages: &Json, vars: &Json, date: TemplateDate) -> Option<String> {
        let vars = vars.as_object().unwrap().iter();
        let vars = vars
            .map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()))
            .collect();
        let open = case["add_generation_prompt"].as_bool().unwrap_or(true);
        let got = ChatTemplate::new(case["source"].as_str().unwrap(), vars)
            .and_then(|t| t.render_json(messages, &case["tools"], open, date))
            .map_err(|e| e.to_string());
        let want = ["text", "refusal", "fault"].map(|key| case[key].as_str());
        let same = match (&got, want) {
            (Ok(text), [Some(want), ..]) => text == want,
            (Err(e), [_, Some(want), _]) => e.contains("refuses this conversation") && e.contains(want),
            (Err(e), [_, _, Some(_)]) => !e.contains("refuses this conversation"),
            _ => false,
        };
        (!same).then(|| format!("{}\n got {got:?}\nwant {want:?}", case["source"]))
    }

    /// Small templates, each for one thing that Jinja2, Python or transformers does.
    #[test]
    fn templates_equal_transformers() {
        let golden: Json = serde_json::from_str(include_str!("../../tests/golden/templates.json")).unwrap();
        let date = golden["date"].as_str().unwrap().parse().unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() > 500);
        let wrong: Vec<String> = cases
            .iter()
            .filter_map(|case| differs(case, &golden["messages"], &golden["vars"], date))
            .collect();
        assert!(wrong.is_empty(), "{} differ\n{}", wrong.len(), wrong.join("\n"));
    }

    /// Whole templates that others publish, over many conversations.
    #[test]
    #[ignore = "needs target/test-data/public_templates.jsonl (tests/golden/make_template_golden.py --public)"]
    fn public_templates_equal_transformers() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/target/test-data/public_templates.jsonl"
        );
        let text = std::fs::read_to_string(path).unwrap();
        // Two that differ where tools are given: a string marked safe escapes what is added to it,
        // and a generator is no JSON.
        let known = ["meetkai-functionary-medium-v3.1", "llama-cpp-deepseek-r1"];
        let mut wrong = Vec::new();
        for line in text.lines() {
            let case: Json = serde_json::from_str(line).unwrap();
            let date = "2026-07-25".parse().unwrap();
            let name = case["name"].as_str().unwrap();
            if !case["tools"].is_null() && known.iter().any(|known| name.contains(known)) {
                continue;
            }
            if let Some(what) = differs(&case, &case["messages"], &case["vars"], date) {
                let shown: String = what.chars().skip(what.len().saturating_sub(600)).collect();
                wrong.push(format!("{name} {}: {shown}", case["conversation"]));
            }
        }
        let n = text.lines().count();
        assert!(
            n > 0 && wrong.is_empty(),
            "{} of {n} differ\n{}",
            wrong.len(),
            wrong.join("\n")
        );
    }

    #[test]
    fn dates_read_and_write() {
        for text in ["2026-07-05", "2026-07-05T14:30:01"] {
            let date: TemplateDate = text.parse().unwrap();
            assert_eq!(date.to_string(), text);
            let json = serde_json::to_string(&date).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<TemplateDate>(&json).unwrap(), date);
        }
        for text in ["", "5 July", "2026-13-01", "2026-07-05 10:00"] {
            let error = text.parse::<TemplateDate>().unwrap_err();
            assert!(error.to_string().contains("2026-07-25"), "{error}");
        }
    }
}
