//! Kernels: files of `shaders/`, the values that a variant sets in them, and its needs.

use std::borrow::Cow;
use std::fmt;

/// The cooperative-matrix shape a kernel is written for: `C (m×n) += A (m×k) · B (k×n)`, a row of the driver's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coop {
    /// Rows of A and C.
    pub m: u32,
    /// Columns of B and C.
    pub n: u32,
    /// Columns of A, rows of B.
    pub k: u32,
    /// Element type of A and B.
    pub ab: &'static str,
    /// Element type of C.
    pub c: &'static str,
}

/// A file of `shaders/`; `shaders!` makes a list of them.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Its path below `shaders/`.
    pub file: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The parts of a [`Kernel`], by their paths below `shaders/`.
macro_rules! shaders {
    [$($file:expr),* $(,)?] => {
        &[$($crate::gpu::Source {
            file: $file,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file)),
        }),*]
    };
}
pub(crate) use shaders;

/// What a variant sets a name to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// `const NAME: u32`.
    Number(u32),
    /// `const NAME: bool`.
    Flag(bool),
    /// `alias NAME`.
    Type(&'static str),
    /// For `//#if` alone.
    Word(&'static str),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Type(text) | Self::Word(text) => f.write_str(text),
        }
    }
}

/// A compute shader: one entry point `main`, bindings in group 0, parameters in `var<immediate>`.
///
/// Its text is a line for each need and each of `values`, then its parts, line by line so that each keeps its number:
/// * between `//#if NAME` or `//#if NAME == VALUE`, `//#else` and `//#end` are lines for some variants alone, by their `values`. A name
///   that is not there is unequal to every value, and false. The rest is left empty;
/// * `//#each r ROWS: s{r} = f(x{r}, s{r});` stands for a statement for each r below `ROWS`, a value or a number. A loop over an array
///   reads better, but few drivers keep its values in registers, and with shader checks none does.
#[derive(Debug)]
pub struct Kernel {
    /// The op's name, everywhere: shader file, table, tests, benches, GPU labels.
    pub name: &'static str,
    /// The shader first, shared parts after.
    pub parts: &'static [Source],
    /// What the variant sets.
    pub values: &'static [(&'static str, Value)],
    /// Needs `SHADER_F16`.
    pub needs_f16: bool,
    /// Needs `SUBGROUP`.
    pub needs_subgroups: bool,
    /// Needs subgroups of exactly this many threads, one workgroup each.
    pub subgroup_size: Option<u32>,
    /// Needs a workgroup of this many of the adapter's largest subgroups.
    pub subgroups: Option<u32>,
    /// Needs cooperative matrices of this shape.
    pub needs_coop: Option<Coop>,
}

/// Subgroups that multiply in a workgroup of [`Kernel::coop`].
pub const COOP_SUBGROUPS: u32 = 4;

impl Kernel {
    /// A kernel that runs on every adapter.
    pub const fn portable(name: &'static str, parts: &'static [Source]) -> Self {
        Self {
            name,
            parts,
            values: &[],
            needs_f16: false,
            needs_subgroups: false,
            subgroup_size: None,
            subgroups: None,
            needs_coop: None,
        }
    }

    /// A kernel whose workgroup is one subgroup of eight threads: a SIMD register of a CPU adapter.
    pub const fn subgroup8(name: &'static str, parts: &'static [Source]) -> Self {
        Self {
            needs_subgroups: true,
            subgroup_size: Some(8),
            ..Self::portable(name, parts)
        }
    }

    /// A kernel of cooperative matrices of this side, f16 in and f32 sums, in workgroups of four subgroups.
    pub const fn coop(name: &'static str, parts: &'static [Source], side: u32) -> Self {
        Self {
            needs_f16: true,
            needs_subgroups: true,
            subgroups: Some(COOP_SUBGROUPS),
            needs_coop: Some(Coop {
                m: side,
                n: side,
                k: side,
                ab: "f16",
                c: "f32",
            }),
            ..Self::portable(name, parts)
        }
    }

    /// The kernel with these values.
    pub const fn with(self, values: &'static [(&'static str, Value)]) -> Self {
        Self { values, ..self }
    }

    /// The module's whole WGSL text.
    pub fn wgsl(&self) -> String {
        let mut text = self.prelude();
        for line in self.parts.iter().flat_map(|part| self.lines(part)) {
            text += line.as_deref().unwrap_or_default();
            text.push('\n');
        }
        text
    }

    /// The lines before the parts: what `needs_*` enable, the matrices' types and sides, and `values`.
    fn prelude(&self) -> String {
        let mut text = String::new();
        if self.needs_f16 {
            text += "enable f16;\n";
        }
        if let Some(Coop { m, n, k, ab, c }) = self.needs_coop {
            text += "enable wgpu_cooperative_matrix;\n";
            text +=
                &format!("alias Left = coop_mat{k}x{m}<{ab}, A>;\nalias Right = coop_mat{n}x{k}<{ab}, B>;\n");
            text += &format!("alias Sum = coop_mat{n}x{m}<{c}, C>;\nconst SIDE = {m}u;\n");
        }
        for (name, value) in self.values {
            text += &match value {
                Value::Number(n) => format!("const {name} = {n}u;\n"),
                Value::Flag(flag) => format!("const {name} = {flag};\n"),
                Value::Type(ty) => format!("alias {name} = {ty};\n"),
                Value::Word(_) => continue,
            };
        }
        text
    }

    /// A part's lines in this kernel's text, `None` for one that is left out.
    pub fn lines(&self, part: &Source) -> impl Iterator<Item = Option<Cow<'static, str>>> {
        let mut taken = Vec::new();
        part.text.lines().map(move |line| {
            let directive = line.trim_start().strip_prefix("//#");
            let words = directive.map(|d| d.split_once(' ').unwrap_or((d, "")));
            match words {
                Some(("if", condition)) => taken.push(self.holds(condition)),
                Some(("else", _)) => {
                    if let Some(last) = taken.last_mut() {
                        *last = !*last;
                    }
                }
                Some(("end", _)) => drop(taken.pop()),
                _ if taken.contains(&false) => {}
                Some(("each", rest)) => return Some(self.repeated(rest).into()),
                _ => return Some(line.into()),
            }
            None
        })
    }

    /// Of "NAME COUNT, …: TEXT" the text for each value of the names, the first of them the slowest.
    fn repeated(&self, rest: &str) -> String {
        let (counts, text) = rest.split_once(": ").unwrap_or((rest, ""));
        let mut all = vec![text.to_owned()];
        for (name, count) in counts.split(", ").filter_map(|c| c.split_once(' ')) {
            let value = self.values.iter().find(|(n, _)| *n == count);
            let count = value.map_or_else(|| count.to_owned(), |(_, value)| value.to_string());
            let each = 0..count.parse::<u32>().unwrap_or_default();
            let of = |text: &String| -> Vec<String> {
                let one = |i: u32| text.replace(&format!("{{{name}}}"), &i.to_string());
                each.clone().map(one).collect()
            };
            all = all.iter().flat_map(of).collect();
        }
        all.join(" ")
    }

    fn holds(&self, condition: &str) -> bool {
        let (name, wanted) = condition.split_once(" == ").unwrap_or((condition, "true"));
        let value = self.values.iter().find(|(n, _)| *n == name);
        value.is_some_and(|(_, value)| value.to_string() == wanted)
    }

    /// The file behind a line of [`wgsl`](Self::wgsl) (from 1 on) and the line in it; none for a line before the parts.
    pub fn place(&self, line: usize) -> Option<(&'static str, usize)> {
        let mut at = line.checked_sub(self.prelude().lines().count())?;
        for part in self.parts {
            let lines = part.text.lines().count();
            if (1..=lines).contains(&at) {
                return Some((part.file, at));
            }
            at = at.checked_sub(lines)?;
        }
        None
    }

    /// "shaders/FILE:LINE" of [`place`](Self::place), or the kernel's name.
    pub(super) fn shown(&self, line: usize) -> String {
        let place = self.place(line);
        place.map_or_else(
            || self.name.to_owned(),
            |(file, line)| format!("shaders/{file}:{line}"),
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    static KERNEL: Kernel = Kernel {
        needs_f16: true,
        values: &[
            ("SIDE", Value::Number(8)),
            ("E", Value::Type("f16")),
            ("HALF", Value::Flag(true)),
            ("KIND", Value::Word("key")),
        ],
        ..Kernel::portable(
            "sample",
            &[
                Source {
                    file: "a.wgsl",
                    text: "//#if SIDE == 8\neight\n//#else\nother\n//#end\nboth\n",
                },
                Source {
                    file: "shared/b.wgsl",
                    text: "//#if HALF\n  //#if KIND == value\nno\n  //#else\nyes\n  //#end\n//#end\n//#if OTHER\nno\n//#end",
                },
            ],
        )
    };

    #[test]
    fn each_repeats_a_line() {
        let text = KERNEL.repeated("i 2, j 3: x{i} += y{j}{i};");
        assert_eq!(
            text,
            "x0 += y00; x0 += y10; x0 += y20; x1 += y01; x1 += y11; x1 += y21;"
        );
        assert_eq!(KERNEL.repeated("i SIDE: {i}"), "0 1 2 3 4 5 6 7");
        assert_eq!(KERNEL.repeated("i NONE: {i}"), "");
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = KERNEL.wgsl();
        let prelude = "enable f16;\nconst SIDE = 8u;\nalias E = f16;\nconst HALF = true;\n";
        assert_eq!(
            text,
            format!("{prelude}\neight\n\n\n\nboth\n\n\n\n\nyes\n\n\n\n\n\n")
        );
        let at = |word| text.lines().position(|l| l == word).map(|i| i + 1);
        assert_eq!(KERNEL.place(at("both").unwrap()), Some(("a.wgsl", 6)));
        assert_eq!(KERNEL.place(at("yes").unwrap()), Some(("shared/b.wgsl", 5)));
        assert_eq!(KERNEL.shown(6), "shaders/a.wgsl:2");
        assert_eq!((KERNEL.place(4), KERNEL.place(100)), (None, None));
        assert_eq!(KERNEL.shown(1), "sample");
    }
}
