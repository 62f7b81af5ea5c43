//! Every pipeline that the kernels' cases make, on adapters of every kind, is valid within the portable limits and
//! translates to SPIR-V, MSL and HLSL; and so does every shader with its default override constants.
//!
//! The cases are recorded on imagined adapters, so that the pipelines of GPUs are among them wherever this runs.
//! Translated is not run: this proves that naga accepts the shader for Metal and DX12, and (where `spirv-val` is
//! installed) that the SPIR-V is valid; the Metal and HLSL compilers are not asked. `TEA_SPIRV_VAL` names another
//! `spirv-val`, with what it is started by; `TEA_REQUIRE_SPIRV_VAL=1` makes a missing one a failure, and so it does one from before
//! 2024, which knows no cooperative matrices, if it was named. The gate sets both.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;

use naga::back::{PipelineConstants, hlsl, msl, pipeline_constants::process_overrides, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage};
use tea_wgpu::gpu::{DeviceKind, Gpu, GpuOptions, Imagined, Kernel, Recorder};
use tea_wgpu::kernels::table;

/// Limits that every adapter this crate supports has: SwiftShader's, Metal's and DX12's least, and WebGPU's defaults.
const MAX_STORAGE_BUFFERS: usize = 8;
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_BYTES: u32 = 16 << 10;
const MAX_IMMEDIATE_BYTES: u32 = 128;

/// A shader, what it asks of the adapter, and the values of its override constants: those of a pipeline, or none for
/// the defaults.
struct Shader {
    name: String,
    wgsl: String,
    f16: bool,
    subgroups: bool,
    constants: Vec<(&'static str, f64)>,
}

impl Shader {
    fn new(kernel: &Kernel, constants: Vec<(&'static str, f64)>) -> Self {
        let values: Vec<String> = constants.iter().map(|(n, v)| format!("{n}={v}")).collect();
        Self {
            name: format!("{}({})", kernel.name, values.join(", ")),
            wgsl: kernel.wgsl(),
            f16: kernel.needs_f16,
            subgroups: kernel.needs_subgroups,
            constants,
        }
    }
}

/// What there is to run on: software drivers, GPUs of each subgroup width with and without matrix units, and the least.
fn adapters() -> Vec<(Imagined, Option<u32>)> {
    let adapter = |kind, subgroup_size, coop| Imagined {
        kind,
        f16: true,
        subgroup_size,
        coop,
    };
    let least = |kind| Imagined {
        f16: false,
        ..adapter(kind, None, None)
    };
    vec![
        (adapter(DeviceKind::Cpu, Some(8), Some(8)), None),
        (adapter(DeviceKind::Cpu, Some(8), None), Some(256)),
        (adapter(DeviceKind::Discrete, Some(32), Some(16)), None),
        (adapter(DeviceKind::Discrete, Some(64), Some(16)), None),
        (adapter(DeviceKind::Integrated, Some(16), Some(8)), None),
        (adapter(DeviceKind::Integrated, Some(32), Some(8)), None),
        (least(DeviceKind::Cpu), None),
        (least(DeviceKind::Discrete), None),
        (least(DeviceKind::Discrete), Some(16)),
    ]
}

/// Takes the items one after another, on all of this machine's cores.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = work(item);
                    done.lock().unwrap().push(result);
                }
            });
        }
    });
    done.into_inner().unwrap()
}

/// The pipelines of all cases, each once, by kernel and constants. Every kernel of the table has one: recording it is what
/// compares its parameters with those of the shader.
fn pipelines() -> Vec<Shader> {
    let gpus: Vec<Gpu> = adapters()
        .into_iter()
        .map(|(adapter, lanes)| {
            let options = GpuOptions {
                lanes,
                ..GpuOptions::default()
            };
            Gpu::imagine(adapter, &options).unwrap()
        })
        .collect();
    let entries = table();
    in_parallel(&entries, |entry| {
        // Ops whose kernels share their cases make them once per kernel; each is cheap.
        for case in (entry.cases)() {
            for gpu in gpus.iter().filter(|gpu| gpu.report().runs(entry.kernel)) {
                let buffers = case.upload(gpu).unwrap();
                let mut rec = Recorder::new(gpu);
                let recorded = (case.record)(&mut rec, &buffers).and_then(|()| rec.submit());
                if let Err(error) = recorded {
                    panic!("{} · {}: {error}", entry.kernel.name, case.name);
                }
            }
        }
    });
    let mut seen = BTreeMap::new();
    for (kernel, constants) in gpus.iter().flat_map(Gpu::pipelines) {
        let shader = Shader::new(kernel, constants);
        seen.insert(shader.name.clone(), shader);
    }
    let recorded: BTreeSet<&str> = gpus
        .iter()
        .flat_map(Gpu::pipelines)
        .map(|(k, _)| k.name)
        .collect();
    let mut names = entries.iter().map(|entry| entry.kernel.name);
    let never = names.find(|name| !recorded.contains(name));
    assert_eq!(never, None, "its cases record it on no adapter");
    seen.into_values().collect()
}

/// All shaders of the kernel table with their defaults, and all pipelines.
fn shaders() -> &'static [Shader] {
    static ALL: OnceLock<Vec<Shader>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut seen = BTreeSet::new();
        let kernels = table().into_iter().map(|entry| entry.kernel);
        let defaults = kernels
            .filter(|kernel| seen.insert(kernel.name))
            .map(|kernel| Shader::new(kernel, Vec::new()));
        let mut all: Vec<Shader> = defaults.collect();
        let made = pipelines();
        println!("{} shaders, {} pipelines", all.len(), made.len());
        all.extend(made.into_iter().filter(|shader| !shader.constants.is_empty()));
        all
    })
}

/// A shader after validation, with its override constants replaced by their values.
struct Resolved {
    module: Module,
    info: ModuleInfo,
}

impl Shader {
    fn values(&self) -> PipelineConstants {
        let one = |(name, value): &(&str, f64)| ((*name).to_owned(), *value);
        self.constants.iter().map(one).collect()
    }

    fn uses_coop(&self) -> bool {
        self.wgsl.contains("enable wgpu_cooperative_matrix;")
    }

    /// What the kernel's table entry says it needs, and nothing else: an undeclared need is an error.
    fn capabilities(&self) -> Capabilities {
        // Immediates and pack/unpack2x16float are required of every adapter.
        let mut all = Capabilities::IMMEDIATES | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        all.set(Capabilities::SHADER_FLOAT16, self.f16);
        all.set(
            Capabilities::SUBGROUP | Capabilities::SUBGROUP_BARRIER,
            self.subgroups,
        );
        all.set(Capabilities::COOPERATIVE_MATRIX, self.uses_coop());
        all
    }

    /// Parses, validates, and puts the value of every `override` in its place.
    fn resolve(&self) -> Result<Resolved, String> {
        let module =
            naga::front::wgsl::parse_str(&self.wgsl).map_err(|error| error.emit_to_string(&self.wgsl))?;
        let info = Validator::new(ValidationFlags::all(), self.capabilities())
            .validate(&module)
            .map_err(|error| error.emit_to_string(&self.wgsl))?;
        let entries: Vec<_> = module
            .entry_points
            .iter()
            .map(|e| (e.stage, e.name.as_str()))
            .collect();
        if entries != [(ShaderStage::Compute, "main")] {
            return Err(format!(
                "one compute entry point `main` is expected, found {entries:?}"
            ));
        }
        let (module, info) = process_overrides(
            &module,
            &info,
            Some((ShaderStage::Compute, "main")),
            &self.values(),
        )
        .map_err(|error| format!("override constants: {error}"))?;
        Ok(Resolved {
            module: module.into_owned(),
            info: info.into_owned(),
        })
    }
}

impl Resolved {
    /// Which portable limits the shader exceeds.
    fn check_limits(&self) -> Result<(), String> {
        let size = |space: fn(&AddressSpace) -> bool| -> u32 {
            let variables = self
                .module
                .global_variables
                .iter()
                .filter(|(_, variable)| space(&variable.space));
            variables
                .map(|(_, v)| self.module.types[v.ty].inner.size(self.module.to_ctx()))
                .sum()
        };
        let storage = self.module.global_variables.iter();
        let storage = storage
            .filter(|(_, v)| matches!(v.space, AddressSpace::Storage { .. }))
            .count();
        let invocations: u32 = self.module.entry_points[0].workgroup_size.iter().product();
        let workgroup = size(|space| matches!(space, AddressSpace::WorkGroup));
        let immediates = size(|space| matches!(space, AddressSpace::Immediate));
        let mut over = Vec::new();
        let mut limit = |what, is: u32, most: u32| {
            if is > most {
                over.push(format!("{is} {what}, at most {most} are portable"));
            }
        };
        limit("storage buffers", storage as u32, MAX_STORAGE_BUFFERS as u32);
        limit("invocations in a workgroup", invocations, MAX_INVOCATIONS);
        limit("bytes of workgroup memory", workgroup, MAX_WORKGROUP_BYTES);
        limit("bytes of immediates", immediates, MAX_IMMEDIATE_BYTES);
        if over.is_empty() {
            Ok(())
        } else {
            Err(over.join("; "))
        }
    }

    fn spirv(&self, version: (u8, u8), policy: BoundsCheckPolicy) -> Result<Vec<u8>, String> {
        let options = spv::Options {
            lang_version: version,
            bounds_check_policies: checks(policy),
            zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
            ..spv::Options::default()
        };
        let entry = spv::PipelineOptions {
            shader_stage: ShaderStage::Compute,
            entry_point: "main".into(),
        };
        let words =
            spv::write_vec(&self.module, &self.info, &options, Some(&entry)).map_err(|e| e.to_string())?;
        Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
    }

    /// Metal's shading language, with every binding given a slot as wgpu does.
    fn msl(&self, policy: BoundsCheckPolicy) -> Result<String, String> {
        let mut resources = msl::EntryPointResources::default();
        for (slot, (_, variable)) in (0..).zip(self.module.global_variables.iter()) {
            if let Some(binding) = variable.binding {
                let target = msl::BindTarget {
                    buffer: Some(slot),
                    mutable: true,
                    ..msl::BindTarget::default()
                };
                resources.resources.insert(binding, target);
            }
        }
        (resources.immediates_buffer, resources.sizes_buffer) = (Some(29), Some(30));
        let options = msl::Options {
            lang_version: (2, 4),
            per_entry_point_map: BTreeMap::from([("main".to_owned(), resources)]),
            fake_missing_bindings: false,
            bounds_check_policies: checks(policy),
            zero_initialize_workgroup_memory: false,
            ..msl::Options::default()
        };
        let (text, info) = msl::write_string(
            &self.module,
            &self.info,
            &options,
            &msl::PipelineOptions::default(),
        )
        .map_err(|error| error.to_string())?;
        for name in info.entry_point_names {
            name.map_err(|error| error.to_string())?;
        }
        Ok(text)
    }

    fn hlsl(&self, model: hlsl::ShaderModel) -> Result<String, String> {
        let immediates = hlsl::BindTarget {
            space: 255,
            ..hlsl::BindTarget::default()
        };
        let options = hlsl::Options {
            shader_model: model,
            immediates_target: Some(immediates),
            special_constants_binding: Some(hlsl::BindTarget {
                register: 1,
                ..immediates
            }),
            zero_initialize_workgroup_memory: false,
            ..hlsl::Options::default()
        };
        let mut text = String::new();
        let entry = hlsl::PipelineOptions::default();
        let info = hlsl::Writer::new(&mut text, &options, &entry)
            .write(&self.module, &self.info, None)
            .map_err(|error| error.to_string())?;
        for name in info.entry_point_names {
            name.map_err(|error| error.to_string())?;
        }
        Ok(text)
    }
}

fn checks(policy: BoundsCheckPolicy) -> BoundsCheckPolicies {
    BoundsCheckPolicies {
        index: policy,
        buffer: policy,
        ..BoundsCheckPolicies::default()
    }
}

/// Runs `check` over all shaders and pipelines and fails with every one that breaks it.
fn for_all(check: impl Fn(&Shader, &Resolved) -> Result<(), String> + Sync) {
    let shaders = shaders();
    assert!(!shaders.is_empty(), "the kernel table is empty");
    let broken = in_parallel(shaders, |shader| {
        let result = shader.resolve().and_then(|resolved| check(shader, &resolved));
        result.err().map(|error| format!("{}: {error}", shader.name))
    });
    let mut broken: Vec<String> = broken.into_iter().flatten().collect();
    broken.sort();
    assert!(
        broken.is_empty(),
        "{} of {} shaders:\n{}",
        broken.len(),
        shaders.len(),
        broken.join("\n")
    );
}

const POLICIES: [BoundsCheckPolicy; 2] = [BoundsCheckPolicy::Restrict, BoundsCheckPolicy::Unchecked];

#[test]
fn shaders_are_valid_and_portable() {
    for_all(|_, resolved| resolved.check_limits());
}

#[test]
fn shaders_translate_to_msl() {
    for_all(|_, resolved| {
        for policy in POLICIES {
            let text = resolved.msl(policy)?;
            if !text.contains("kernel void main_(") {
                return Err("the MSL has no kernel function".to_owned());
            }
        }
        Ok(())
    });
}

#[test]
fn shaders_translate_to_hlsl() {
    for_all(|shader, resolved| {
        if shader.uses_coop() {
            return Ok(()); // DX12 has no cooperative matrices: wgpu does not offer these kernels there
        }
        // What wgpu asks for: 5.1 with the old compiler, 6.x for wave operations and 16-bit types.
        let model = if shader.f16 || shader.subgroups {
            hlsl::ShaderModel::V6_2
        } else {
            hlsl::ShaderModel::V5_1
        };
        let text = resolved.hlsl(model)?;
        if text.contains("[numthreads(") {
            Ok(())
        } else {
            Err("the HLSL has no entry point".to_owned())
        }
    });
}

#[test]
fn shaders_translate_to_valid_spirv() {
    let validator = SpirvVal::find();
    let required = std::env::var("TEA_REQUIRE_SPIRV_VAL").is_ok_and(|value| value == "1");
    assert!(
        !required || validator.as_ref().is_some_and(|v| v.knows_coop || !v.named),
        "spirv-val is missing or older than 2024: install spirv-tools, or correct TEA_SPIRV_VAL"
    );
    match &validator {
        None => println!(
            "spirv-val is not on the PATH: the SPIR-V is written, not validated (install spirv-tools)"
        ),
        Some(v) if !v.knows_coop => {
            println!("spirv-val is older than 2024: cooperative matrices are not validated")
        }
        Some(_) => (),
    }
    for_all(|shader, resolved| {
        for policy in POLICIES {
            for (version, target) in [((1, 3), "vulkan1.1"), ((1, 6), "vulkan1.3")] {
                let words = resolved.spirv(version, policy)?;
                // Starting the validator is what takes the time: pipelines are shown to it twice, defaults four times.
                let shown = shader.constants.is_empty()
                    || (policy == BoundsCheckPolicy::Unchecked) == (version == (1, 6));
                let known = |v: &&SpirvVal| shown && (!shader.uses_coop() || v.knows_coop);
                if let Some(v) = validator.as_ref().filter(known) {
                    v.check(&words, target)
                        .map_err(|error| format!("spirv-val for {target}: {error}"))?;
                }
            }
        }
        Ok(())
    });
}

/// The validator that is there.
struct SpirvVal {
    /// The program and what it is started with.
    words: Vec<String>,
    /// By `TEA_SPIRV_VAL`.
    named: bool,
    /// Released since 2024.
    knows_coop: bool,
}

impl SpirvVal {
    fn find() -> Option<Self> {
        let given = std::env::var("TEA_SPIRV_VAL").ok();
        let words: Vec<String> = given
            .as_deref()
            .unwrap_or("spirv-val")
            .split_whitespace()
            .map(String::from)
            .collect();
        let (program, first) = words.split_first()?;
        let output = Command::new(program).args(first).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // "SPIRV-Tools v2025.1 …"
        let year = text
            .split_once(" v")
            .and_then(|(_, rest)| rest.get(..4)?.parse::<u32>().ok());
        output.status.success().then(|| Self {
            named: given.is_some(),
            knows_coop: year.is_some_and(|year| year >= 2024),
            words,
        })
    }

    fn check(&self, module: &[u8], target: &str) -> Result<(), String> {
        let mut child = Command::new(&self.words[0])
            .args(&self.words[1..])
            .args(["--target-env", target, "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        child
            .stdin
            .take()
            .unwrap()
            .write_all(module)
            .map_err(|error| error.to_string())?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let text = [output.stdout, output.stderr].concat();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&text).trim().to_owned())
        }
    }
}

/// A line of a shader file that is in no table entry's text is dead, or runs untested.
#[test]
fn every_line_of_a_shader_file_is_in_the_table() {
    let mut used = BTreeSet::new();
    for entry in table() {
        for part in entry.kernel.parts {
            let lines = (1..).zip(entry.kernel.lines(part));
            let kept = lines.filter(|(_, line)| line.is_some());
            used.extend(kept.map(|(at, _)| (part.file, at)));
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut unused = Vec::new();
    for directory in [root.clone(), root.join("shared")] {
        for file in std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            if file.extension().is_none_or(|extension| extension != "wgsl") {
                continue;
            }
            let text = std::fs::read_to_string(&file).unwrap();
            let name = file
                .strip_prefix(&root)
                .unwrap()
                .to_str()
                .unwrap()
                .replace('\\', "/");
            let directive = |line: &str| {
                let line = line.trim_start();
                ["//#if ", "//#else", "//#end"]
                    .iter()
                    .any(|d| line.starts_with(d))
            };
            let dead = (1..).zip(text.lines()).filter(|(_, line)| !directive(line));
            let dead = dead.filter(|(at, _)| !used.contains(&(name.as_str(), *at)));
            unused.extend(dead.map(|(at, line)| format!("{name}:{at}: {line}")));
        }
    }
    assert!(
        unused.is_empty(),
        "in no kernel of the table:\n{}",
        unused.join("\n")
    );
}

fn sample(wgsl: &str) -> Shader {
    Shader {
        name: "sample".to_owned(),
        wgsl: wgsl.to_owned(),
        f16: false,
        subgroups: false,
        constants: Vec::new(),
    }
}

#[test]
fn the_checks_catch_bad_shaders() {
    let fails = |wgsl: &str, why: &str| {
        let error = sample(wgsl)
            .resolve()
            .and_then(|resolved| resolved.check_limits())
            .unwrap_err();
        assert!(error.contains(why), "{wgsl}: {error}");
    };
    fails("@compute @workgroup_size(1) fn other() {}", "entry point `main`");
    fails(
        "@compute @workgroup_size(1) fn main() { let x: u32 = 1.5; }",
        "1.5",
    );
    fails(
        "override N: u32; @compute @workgroup_size(N) fn main() {}",
        "override constants",
    );
    fails(
        "override N: u32 = 512; @compute @workgroup_size(N) fn main() {}",
        "512 invocations",
    );
    fails(
        "enable f16; @compute @workgroup_size(1) fn main() { var x = 1.0h; x = x; }",
        "",
    );
    fails(
        "var<workgroup> tile: array<f32, 4097>; @compute @workgroup_size(1) fn main() { tile[0] = 1.0; }",
        "16388 bytes of workgroup memory",
    );
    fails(
        "@compute @workgroup_size(8) fn main() { var x = subgroupAdd(1.0); x = x; }",
        "",
    );
    let buffers: String = (0..9)
        .map(|i| format!("@group(0) @binding({i}) var<storage, read_write> b{i}: array<f32>;\n"))
        .collect();
    let body: String = (0..9).map(|i| format!("b{i}[0] = 1.0; ")).collect();
    fails(
        &format!("{buffers} @compute @workgroup_size(1) fn main() {{ {body} }}"),
        "9 storage buffers",
    );
}
