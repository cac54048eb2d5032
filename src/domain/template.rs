//! Templates: compiled once, rendered for every recipient, unable to harm the process that does it.
//!
//! The language is a part of minijinja: expressions, `if`, `for` and a few filters. What could build
//! large values out of small ones (assignments, macros, multiplication) is refused when a template is
//! made, fuel bounds the steps of a rendering, and what it writes is bounded too. A variable that a
//! recipient lacks is a refusal that names it, never an empty place in a text.

mod language;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;

use minijinja::value::{Enumerator, Object, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior, filters};

/// Longest source: an HTML mail with its styles.
pub const SOURCE_BYTES_MAX: usize = 256 * 1024;
/// Longest rendered text; 255 segments are a tenth of it.
pub const OUTPUT_BYTES_MAX: usize = 512 * 1024;
/// Steps one rendering may take; a text of a hundred expressions takes a few hundred.
const FUEL: u64 = 50_000;
/// Expressions inside expressions.
const DEPTH_MAX: usize = 50;

/// The one template of each environment.
const NAME: &str = "template";

/// Whether variables are escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Markup {
    /// Text messages, subjects, plain mail.
    Text,
    /// `&`, `<` and quotes in a variable are written as entities.
    Html,
}

/// A compiled template. Cloning is cheap; rendering takes `&self` and may be done by many threads.
#[derive(Clone)]
pub struct Template {
    inner: Arc<Compiled>,
}

struct Compiled {
    environment: Environment<'static>,
    variables: Vec<String>,
    is_constant: bool,
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Template")
            .field("variables", &self.inner.variables)
            .finish_non_exhaustive()
    }
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// [`TemplateRefusal`] says what is wrong and where.
    pub fn parse(source: &str, markup: Markup) -> Result<Self, TemplateRefusal> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(TemplateRefusal::TooLong);
        }
        let mut environment = environment(markup);
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| explain_syntax(&error))?;
        let has_code = language::check(source)?;
        let template = environment
            .get_template(NAME)
            .map_err(|error| explain_syntax(&error))?;
        let variables: BTreeSet<String> =
            template.undeclared_variables(false).into_iter().collect();
        let compiled = Compiled {
            variables: variables.into_iter().collect(),
            is_constant: !has_code,
            environment,
        };
        Ok(Self {
            inner: Arc::new(compiled),
        })
    }

    /// Every variable it may ask for, in alphabetical order; those with a fall-back too.
    pub fn variables(&self) -> &[String] {
        &self.inner.variables
    }

    /// Whether every recipient gets the same text.
    pub fn is_constant(&self) -> bool {
        self.inner.is_constant
    }

    /// The text for one recipient.
    ///
    /// # Errors
    /// [`RenderRefusal::MissingVariable`] names what the recipient lacks.
    pub fn render(&self, facts: &Arc<Facts>) -> Result<String, RenderRefusal> {
        let template = self
            .inner
            .environment
            .get_template(NAME)
            .map_err(|error| RenderRefusal::Failed(error.to_string()))?;
        facts.forget_missing();
        let mut output = Output::default();
        match template.render_captured_to(Value::from_dyn_object(facts.clone()), &mut output) {
            Ok(_) => String::from_utf8(output.bytes)
                .map_err(|error| RenderRefusal::Failed(error.to_string())),
            Err(_) if output.is_full => Err(RenderRefusal::TooLong),
            Err(error) => Err(explain_rendering(&error, facts)),
        }
    }
}

/// What is known of one recipient. An absent value and an empty one are the same: not known.
#[derive(Debug, Default)]
pub struct Facts {
    // A contact has a dozen; looking through them is faster than hashing.
    values: Vec<(String, Value)>,
    /// What a template asked for last and did not get.
    missing: Mutex<Option<String>>,
}

impl Facts {
    /// Knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a text; an empty one is left out. What was added first under a name stays.
    pub fn add(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.insert(name, Value::from(text));
        }
    }

    /// Adds what an attribute holds: text, number or truth. Nothing else can be written in a text.
    pub fn add_json(&mut self, name: &str, value: &serde_json::Value) {
        match value {
            serde_json::Value::String(text) => self.add(name, text),
            serde_json::Value::Bool(truth) => self.insert(name, Value::from(*truth)),
            serde_json::Value::Number(number) => {
                if let Some(whole) = number.as_i64() {
                    self.insert(name, Value::from(whole));
                } else if let Some(float) = number.as_f64() {
                    self.insert(name, Value::from(float));
                }
            }
            _ => {}
        }
    }

    fn insert(&mut self, name: &str, value: Value) {
        if self.find(name).is_none() {
            self.values.push((name.to_owned(), value));
        }
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.values
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
    }

    fn forget_missing(&self) {
        if let Ok(mut missing) = self.missing.lock() {
            *missing = None;
        }
    }

    fn missing(&self) -> Option<String> {
        self.missing.lock().ok().and_then(|missing| missing.clone())
    }
}

impl Object for Facts {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, name: &str) -> Option<Value> {
        let found = self.find(name).cloned();
        if found.is_none()
            && let Ok(mut missing) = self.missing.lock()
        {
            *missing = Some(name.to_owned());
        }
        found
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(
            self.values
                .iter()
                .map(|(name, _)| Value::from(name.as_str()))
                .collect(),
        )
    }
}

/// Why a template cannot be used. Shown to people as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateRefusal {
    /// It does not parse.
    #[error("line {line}: {detail}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What was expected, or found.
        detail: String,
    },
    /// A tag that templates here do not have.
    #[error("{{% {tag} %}} is not available; use if and for")]
    TagNotAvailable {
        /// Its first word.
        tag: String,
    },
    /// `*`, which would make large texts out of small ones.
    #[error("multiplication is not available")]
    Multiplication,
    /// A filter that templates here do not have.
    #[error("there is no filter {0}; there are {list}", list = language::FILTERS.join(", "))]
    UnknownFilter(String),
    /// A test that templates here do not have.
    #[error("there is no test {0}; there are {list}", list = language::TESTS.join(", "))]
    UnknownTest(String),
    /// A function or method; there are none.
    #[error("{0}() cannot be called; templates have variables and filters")]
    Call(String),
    /// More than 256 KiB.
    #[error("the template is longer than {SOURCE_BYTES_MAX} bytes")]
    TooLong,
}

/// Why one recipient gets no text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenderRefusal {
    /// The recipient has no such value, and the template no fall-back.
    #[error("the variable {0} is missing")]
    MissingVariable(String),
    /// More than 512 KiB.
    #[error("the text is longer than {OUTPUT_BYTES_MAX} bytes")]
    TooLong,
    /// More steps than one text may take.
    #[error("the template takes too many steps")]
    TooManySteps,
    /// Anything else the template cannot do with these values.
    #[error("{0}")]
    Failed(String),
}

fn environment(markup: Markup) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH_MAX);
    environment.set_auto_escape_callback(move |_| match markup {
        Markup::Text => AutoEscape::None,
        Markup::Html => AutoEscape::Html,
    });
    // `language` lists the same names, and refuses every other when a template is made.
    environment.add_filter("upper", filters::upper);
    environment.add_filter("lower", filters::lower);
    environment.add_filter("title", filters::title);
    environment.add_filter("capitalize", filters::capitalize);
    environment.add_filter("trim", filters::trim);
    environment.add_filter("default", filters::default);
    environment.add_filter("length", filters::length);
    environment.add_filter("round", filters::round);
    environment.add_filter("int", filters::int);
    environment.add_filter("float", filters::float);
    environment.add_test("defined", minijinja::tests::is_defined);
    environment.add_test("undefined", minijinja::tests::is_undefined);
    environment
}

fn explain_syntax(error: &minijinja::Error) -> TemplateRefusal {
    let detail = error.detail().unwrap_or("cannot be read").to_owned();
    TemplateRefusal::Syntax {
        line: error.line().unwrap_or(1),
        detail,
    }
}

fn explain_rendering(error: &minijinja::Error, facts: &Facts) -> RenderRefusal {
    match (error.kind(), facts.missing()) {
        (ErrorKind::UndefinedError, Some(name)) => RenderRefusal::MissingVariable(name),
        (ErrorKind::OutOfFuel, _) => RenderRefusal::TooManySteps,
        _ => RenderRefusal::Failed(error.to_string()),
    }
}

/// Takes what a rendering writes, up to [`OUTPUT_BYTES_MAX`].
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    is_full: bool,
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > OUTPUT_BYTES_MAX {
            self.is_full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> Arc<Facts> {
        let mut facts = Facts::new();
        facts.add("first_name", "Ann");
        facts.add("last_name", "");
        facts.add("tier", "gold & <co>");
        facts.add_json("points", &serde_json::json!(4156));
        Arc::new(facts)
    }

    fn render(source: &str) -> Result<String, RenderRefusal> {
        Template::parse(source, Markup::Text)
            .unwrap()
            .render(&ann())
    }

    #[test]
    fn a_text_is_rendered_from_what_is_known() {
        let cases = [
            ("Hi {{ first_name }}!", "Hi Ann!"),
            (
                "{{ points }} points, {{ tier|upper }}",
                "4156 points, GOLD & <CO>",
            ),
            ("Hi {{ last_name|default('there') }}", "Hi there"),
            (
                "{% if last_name is defined %}{{ last_name }}{% else %}x{% endif %}",
                "x",
            ),
            ("{% if points > 1000 %}thanks{% endif %}", "thanks"),
            (
                "{% for char in first_name %}{{ char }}.{% endfor %}",
                "A.n.n.",
            ),
            ("{# a note #}no code * at all", "no code * at all"),
            ("{{ \"}} {% set x = 1 %} * \" }}", "}} {% set x = 1 %} * "),
            ("50 % {off}\n", "50 % {off}"),
        ];
        for (source, text) in cases {
            assert_eq!(render(source).as_deref(), Ok(text), "{source}");
        }
    }

    #[test]
    fn html_is_escaped_and_text_is_not() {
        let template = Template::parse("<b>{{ tier }}</b>", Markup::Html).unwrap();
        assert_eq!(
            template.render(&ann()).unwrap(),
            "<b>gold &amp; &lt;co&gt;</b>"
        );
    }

    #[test]
    fn a_missing_variable_is_named() {
        for source in [
            "{{ nickname }}",
            "{{ first_name }} {{ nickname|upper }}",
            "{{ last_name|default('x') }} {{ nickname }}",
            "{% if nickname %}x{% endif %}",
            "{{ nickname.short }}",
        ] {
            let refusal = RenderRefusal::MissingVariable("nickname".into());
            assert_eq!(render(source), Err(refusal), "{source}");
        }
    }

    #[test]
    fn variables_are_listed_once_each() {
        let source = "{{ b }} {{ a|default(c) }} {% for x in b %}{{ x }}{% endfor %}";
        let template = Template::parse(source, Markup::Text).unwrap();
        assert_eq!(template.variables(), ["a", "b", "c"]);
        assert!(!template.is_constant());
        let constant = Template::parse("Sale!", Markup::Text).unwrap();
        assert!(constant.is_constant() && constant.variables().is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_template_is_said_with_its_place() {
        use TemplateRefusal as R;
        let parse = |source: &str| {
            Template::parse(source, Markup::Text)
                .map(|_| ())
                .unwrap_err()
        };
        assert!(matches!(parse("a\n{{ b"), R::Syntax { line: 2, .. }));
        assert!(matches!(parse("{% if a %}"), R::Syntax { .. }));
        let tag = |tag: &str| R::TagNotAvailable { tag: tag.into() };
        assert_eq!(parse("{% set a = 1 %}"), tag("set"));
        assert_eq!(parse("x {%- macro m() %}{% endmacro %}"), tag("macro"));
        assert_eq!(
            parse("{{ ' %}' }}{% raw %}{{ \" {% endraw %}{% set a = 1 %}"),
            tag("raw")
        );
        assert_eq!(
            parse("{% if '%}' %}{% endif %}{% filter upper %}{% endfilter %}"),
            tag("filter")
        );
        assert_eq!(parse("{{ 'x' * 100000000 }}"), R::Multiplication);
        assert_eq!(parse(&"x".repeat(SOURCE_BYTES_MAX + 1)), R::TooLong);
        let cases = [
            (
                "{{ a|upper|frobnicate }}",
                R::UnknownFilter("frobnicate".into()),
            ),
            (
                "{% if false %}{{ a | replace('x', a) }}{% endif %}",
                R::UnknownFilter("replace".into()),
            ),
            ("{{ a is not even }}", R::UnknownTest("even".into())),
            ("{{ range(9) }}", R::Call("range".into())),
            ("{{ a.join (b) }}", R::Call("join".into())),
        ];
        for (source, refusal) in cases {
            assert_eq!(parse(source), refusal, "{source}");
        }
    }

    #[test]
    fn every_filter_and_test_on_offer_exists() {
        for filter in language::FILTERS {
            let text = render(&format!("{{{{ points|{filter} }}}}"));
            assert!(
                !matches!(&text, Err(RenderRefusal::Failed(why)) if why.contains("unknown")),
                "{filter}: {text:?}"
            );
        }
        for test in language::TESTS {
            assert!(
                render(&format!("{{{{ points is {test} }}}}")).is_ok(),
                "{test}"
            );
        }
    }

    #[test]
    fn a_template_cannot_eat_the_process() {
        let text = "x".repeat(60_000);
        let long = "{% for a in t %}{{ t }}{% endfor %}";
        let template = Template::parse(long, Markup::Text).unwrap();
        let mut facts = Facts::new();
        facts.add("t", &text);
        assert_eq!(
            template.render(&Arc::new(facts)),
            Err(RenderRefusal::TooLong)
        );

        let steps = "{% for a in t %}{% for b in t %}{% endfor %}{% endfor %}";
        let template = Template::parse(steps, Markup::Text).unwrap();
        let mut facts = Facts::new();
        facts.add("t", &text);
        assert_eq!(
            template.render(&Arc::new(facts)),
            Err(RenderRefusal::TooManySteps)
        );
    }
}
