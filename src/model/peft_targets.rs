//! Which modules an adapter changes, and by how much, as PEFT decides it from adapter_config.json:
//! `target_modules`, `exclude_modules`, `layers_to_transform`, `rank_pattern`, `alpha_pattern`,
//! `use_rslora`.

use std::collections::{BTreeMap, HashSet};

use fancy_regex::{Regex, RegexBuilder};

use super::peft_config::some_of;
use super::spec::{Head, ModelSpec, Proj};
use crate::error::{Error, Result};
use crate::file::limits::{ADAPTER_PATTERN, ADAPTER_PATTERNS};

/// Module names, as `target_modules` and `exclude_modules` give them.
#[derive(Clone, Debug, PartialEq)]
pub enum Names {
    /// A module is meant whose path is a name, or ends with a dot and a name.
    List(Vec<String>),
    /// A module is meant whose whole path the regular expression matches.
    Regex(String),
    /// "all-linear": every linear layer but the head.
    AllLinear,
}

/// The rules that choose modules, their ranks and their scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Targets {
    /// `target_modules`.
    pub names: Names,
    /// `exclude_modules`.
    pub exclude: Option<Names>,
    /// `layers_to_transform`; empty for all.
    pub layers: Vec<i64>,
    /// `layers_pattern`; empty for any.
    pub layers_pattern: Vec<String>,
    /// `modules_to_save`, which no rule above reaches.
    pub saved: Vec<String>,
    /// `r`.
    pub rank: usize,
    /// `lora_alpha`.
    pub alpha: f64,
    /// `rank_pattern`, in the file's order.
    pub ranks: Vec<(String, usize)>,
    /// `alpha_pattern`, in the file's order.
    pub alphas: Vec<(String, f64)>,
    /// `use_rslora`: the scale is alpha/√r, not alpha/r.
    pub rslora: bool,
}

/// A linear layer that an adapter changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Module {
    /// The block.
    pub layer: usize,
    /// Which of its linear layers.
    pub proj: Proj,
    /// r.
    pub rank: usize,
    /// What B·A is multiplied by.
    pub scale: f64,
}

impl Targets {
    /// The plain rule: the same linear layers in every block, one rank and one alpha.
    pub fn plain(projs: &[Proj], rank: usize, alpha: f64) -> Self {
        Self {
            names: Names::List(projs.iter().map(|p| p.name().to_string()).collect()),
            exclude: None,
            layers: Vec::new(),
            layers_pattern: Vec::new(),
            saved: Vec::new(),
            rank,
            alpha,
            ranks: Vec::new(),
            alphas: Vec::new(),
            rslora: false,
        }
    }

    /// The rule that gives exactly `modules` on a model of `layers` blocks, the plain one where
    /// there is one. `rank` and `alpha` stand for the modules that have them.
    pub fn of(modules: &[Module], layers: usize, rank: usize, alpha: f64) -> Self {
        let mut blocks: BTreeMap<usize, Vec<Proj>> = BTreeMap::new();
        for m in modules {
            blocks.entry(m.layer).or_default().push(m.proj);
        }
        let first = blocks.values().next().cloned().unwrap_or_default();
        let mut targets = Self::plain(&first, rank, alpha);
        if blocks.len() != layers || blocks.values().any(|b| *b != first) {
            let paths = modules.iter().map(|m| m.proj.path(m.layer)).collect();
            targets.names = Names::List(paths);
        }
        for m in modules {
            let path = m.proj.path(m.layer);
            // Alpha that gives the module's scale at its own rank.
            let own = m.scale * m.rank as f64;
            if m.rank != rank {
                targets.ranks.push((path.clone(), m.rank));
            }
            if (own / m.rank as f64) as f32 != (alpha / m.rank as f64) as f32 {
                targets.alphas.push((path, own));
            }
        }
        targets
    }

    /// The largest rank that a module may have.
    pub fn largest_rank(&self) -> usize {
        self.ranks.iter().map(|(_, r)| *r).fold(self.rank, usize::max)
    }

    /// The alpha that, divided by r, is the scale of a module that no pattern names.
    pub fn plain_alpha(&self) -> f64 {
        if self.rslora {
            self.alpha * (self.rank as f64).sqrt()
        } else {
            self.alpha
        }
    }

    /// The linear layers that are changed, block by block.
    ///
    /// # Errors
    /// A user error: a rule is no regular expression, takes a module that is no linear layer of a
    /// block, or takes none.
    pub fn modules(&self, spec: &ModelSpec) -> Result<Vec<Module>> {
        let rules = Rules::new(self)?;
        for path in others(spec) {
            if rules.takes(&path)? && !matches!(self.names, Names::AllLinear) {
                return Err(Error::user(format!(
                    "target_modules = {} takes {path}; adapters on the linear layers of the blocks ({}) are read. {MERGE}",
                    self.names.shown(),
                    Proj::ALL.map(Proj::name).join(", ")
                )));
            }
        }
        let mut found = Vec::new();
        for layer in 0..spec.num_layers {
            for proj in Proj::ALL {
                let path = proj.path(layer);
                if !rules.takes(&path)? {
                    continue;
                }
                let rank = rules.value(&rules.ranks, &path)?.unwrap_or(self.rank);
                let alpha = rules.value(&rules.alphas, &path)?.unwrap_or(self.alpha);
                let divisor = if self.rslora {
                    (rank as f64).sqrt()
                } else {
                    rank as f64
                };
                let scale = alpha / divisor;
                if !(scale as f32).is_finite() {
                    return Err(Error::user(format!(
                        "lora_alpha {alpha:?} with rank {rank} multiplies the update of {path} by {scale:e}, which is more than \
                         f32 holds"
                    )));
                }
                found.push(Module {
                    layer,
                    proj,
                    rank,
                    scale,
                });
            }
        }
        if found.is_empty() {
            return Err(Error::user(format!(
                "target_modules = {} takes no linear layer of this base model: the adapter is for another model, or changes nothing",
                self.names.shown()
            )));
        }
        Ok(found)
    }
}

/// The way on for what only PEFT computes.
pub(super) const MERGE: &str =
    "Merge the adapter in PEFT (merge_and_unload, then save_pretrained) and pass the result as the model";

impl Names {
    fn shown(&self) -> String {
        match self {
            Self::List(names) => format!("[{}]", some_of(names)),
            Self::Regex(text) => format!("{:?}", some_of(&[text])),
            Self::AllLinear => "\"all-linear\"".into(),
        }
    }
}

/// The paths of the modules of a model that are no linear layer of a block.
fn others(spec: &ModelSpec) -> Vec<String> {
    let mut paths: Vec<String> = [
        "model",
        "model.embed_tokens",
        "model.layers",
        "model.norm",
        "model.rotary_emb",
    ]
    .map(String::from)
    .to_vec();
    paths.push(match spec.head {
        Head::CausalLm => "lm_head".into(),
        Head::Score => "score".into(),
    });
    for layer in 0..spec.num_layers {
        let block = format!("model.layers.{layer}");
        let mut inner = vec![
            "self_attn",
            "mlp",
            "mlp.act_fn",
            "input_layernorm",
            "post_attention_layernorm",
        ];
        if spec.qk_norm {
            inner.extend(["self_attn.q_norm", "self_attn.k_norm"]);
        }
        paths.extend(inner.iter().map(|name| format!("{block}.{name}")));
        paths.push(block);
    }
    paths
}

/// The rules with their regular expressions compiled.
struct Rules<'a> {
    targets: &'a Targets,
    /// The names of lists, to find one without a walk through all.
    listed: HashSet<&'a str>,
    excluded: HashSet<&'a str>,
    names: Option<Regex>,
    exclude: Option<Regex>,
    layers_pattern: Vec<Regex>,
    saved: Vec<Regex>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

impl<'a> Rules<'a> {
    fn new(targets: &'a Targets) -> Result<Self> {
        let whole = |key: &str, names: &Names| match names {
            Names::Regex(text) => regex(key, text, &format!("^(?:{text})$")).map(Some),
            Names::List(_) | Names::AllLinear => Ok(None),
        };
        // As PEFT's get_pattern_key: a pattern stands at the end of a path, after a dot.
        fn ends<T: Copy>(key: &str, list: &[(String, T)]) -> Result<Vec<(Regex, T)>> {
            ADAPTER_PATTERNS.check(key, list.len())?;
            list.iter()
                .map(|(text, value)| Ok((regex(key, text, &format!("^(?:.*\\.)?(?:{text})$"))?, *value)))
                .collect()
        }
        let layer = |text: &String| {
            let pattern = format!("^(?:.*?\\.)?{text}\\.(\\d+)\\.");
            regex("layers_pattern", text, &pattern)
        };
        let saved = |text: &String| regex("modules_to_save", text, &format!("^(?:.*\\.)?{text}(?:$|\\.)"));
        ADAPTER_PATTERNS.check("layers_pattern", targets.layers_pattern.len())?;
        ADAPTER_PATTERNS.check("modules_to_save", targets.saved.len())?;
        let mut layers_pattern: Vec<_> = targets.layers_pattern.iter().map(layer).collect::<Result<_>>()?;
        if layers_pattern.is_empty() && !targets.layers.is_empty() {
            // The first numbered part after another is the block.
            layers_pattern.push(regex("layers_pattern", "", r"^.*?\.[^.]*\.(\d+)\.")?);
        }
        fn set(names: Option<&Names>) -> HashSet<&str> {
            match names {
                Some(Names::List(list)) => list.iter().map(String::as_str).collect(),
                _ => HashSet::new(),
            }
        }
        Ok(Self {
            listed: set(Some(&targets.names)),
            excluded: set(targets.exclude.as_ref()),
            names: whole("target_modules", &targets.names)?,
            exclude: match &targets.exclude {
                Some(names) => whole("exclude_modules", names)?,
                None => None,
            },
            layers_pattern,
            saved: targets.saved.iter().map(saved).collect::<Result<_>>()?,
            ranks: ends("rank_pattern", &targets.ranks)?,
            alphas: ends("alpha_pattern", &targets.alphas)?,
            targets,
        })
    }

    /// Whether a module is changed.
    fn takes(&self, path: &str) -> Result<bool> {
        let excluded = match (&self.targets.exclude, &self.exclude) {
            (Some(Names::List(_)), _) => listed(&self.excluded, path),
            (_, Some(rule)) => matches(rule, path)?,
            _ => false,
        };
        if excluded {
            return Ok(false);
        }
        for rule in &self.saved {
            if matches(rule, path)? {
                return Ok(false);
            }
        }
        match (&self.targets.names, &self.names) {
            (_, Some(rule)) => matches(rule, path),
            (Names::List(_), None) if self.listed.contains(path) => Ok(true),
            (Names::List(_), None) => Ok(listed(&self.listed, path) && self.in_layers(path)?),
            (Names::AllLinear | Names::Regex(_), None) => Ok(self.in_layers(path)?),
        }
    }

    /// Whether the module's block is among those to transform.
    fn in_layers(&self, path: &str) -> Result<bool> {
        if self.targets.layers.is_empty() {
            return Ok(true);
        }
        for rule in &self.layers_pattern {
            let found = rule.captures(path).map_err(|e| gave_up(path, &e))?;
            if let Some(found) = found {
                let index = found.get(1).and_then(|m| m.as_str().parse::<i64>().ok());
                return Ok(index.is_some_and(|i| self.targets.layers.contains(&i)));
            }
        }
        Ok(false)
    }

    /// The value of the first pattern that a module's path matches.
    fn value<T: Copy>(&self, list: &[(Regex, T)], path: &str) -> Result<Option<T>> {
        for (rule, value) in list {
            if matches(rule, path)? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

/// Whether a path is a name of the list, or ends with a dot and one.
fn listed(list: &HashSet<&str>, path: &str) -> bool {
    list.contains(path)
        || path
            .char_indices()
            .any(|(at, c)| c == '.' && list.contains(&path[at + 1..]))
}

/// Steps of a search that goes back and forth (one with look-around or back-references).
const STEPS: usize = 100_000;
/// Bytes of a compiled expression.
const COMPILED: usize = 1 << 20;

fn regex(key: &str, text: &str, whole: &str) -> Result<Regex> {
    ADAPTER_PATTERN.check(key, text.len())?;
    let built = RegexBuilder::new(whole)
        .backtrack_limit(STEPS)
        .delegate_size_limit(COMPILED)
        .build();
    built.map_err(|e| {
        Error::user(format!(
            "{key}: {:?} is not a regular expression: {e}",
            some_of(&[text])
        ))
    })
}

fn matches(rule: &Regex, path: &str) -> Result<bool> {
    rule.is_match(path).map_err(|e| gave_up(path, &e))
}

fn gave_up(path: &str, error: &fancy_regex::Error) -> Error {
    Error::user(format!(
        "a regular expression of the adapter's configuration was given up on {path}: {error}"
    ))
}
