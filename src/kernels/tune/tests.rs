#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::gpu::{GpuOptions, Recorder};
use crate::kernels::linear;
use crate::kernels::linear_variants::PORTABLE;
use crate::kernels::weight::Weight;

fn open(tune: Tune) -> Gpu {
    let options = GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        tune,
        ..GpuOptions::default()
    };
    Gpu::open(&options).unwrap()
}

#[test]
fn the_default_wins_unless_another_is_clearly_faster() {
    let of = |a: f64, b: f64| measure::winner("a", &[("a", a), ("b", b)]);
    assert_eq!(of(1.0, 0.96), "a");
    assert_eq!(of(1.0, 0.94), "b");
    assert_eq!(of(1.0, 3.0), "a");
    // A default that was not timed does not win.
    assert_eq!(measure::winner("a", &[("b", 2.0), ("c", 1.0)]), "c");
    assert_eq!(measure::winner("a", &[]), "a");
}

#[test]
fn a_class_is_a_band_of_rows_and_a_kind_of_width() {
    let class = |rows, cols, sum| Class::new(FORWARD_OP, DType::Q8_0, [rows, cols, sum]);
    let same = |a: Class, b: Class| a.key() == b.key();
    assert!(same(class(2, 576, 1536), class(8, 64, 64)));
    assert!(same(class(33, 576, 1536), class(4096, 1536, 576)));
    let all = [
        class(1, 576, 576),
        class(2, 576, 576),
        class(9, 576, 576),
        class(33, 576, 576),
        class(33, 16, 576),
        class(33, 576, 16),
        Class {
            dtype: DType::F32,
            ..class(33, 576, 576)
        },
        Class {
            op: INPUT_GRADIENT_OP,
            ..class(33, 576, 576)
        },
        Class {
            op: WEIGHT_GRADIENT_OP,
            ..class(33, 576, 576)
        },
    ];
    for (i, a) in all.iter().enumerate() {
        for b in &all[..i] {
            assert!(!same(*a, *b), "{a:?} {b:?}");
        }
        // What is written to a file comes back as the same class.
        assert_eq!(
            Choice::new(a, PORTABLE, &[]).class().unwrap().key(),
            a.key(),
            "{a:?}"
        );
    }
}

/// A table that is the default's opposite, for every class that a product below has.
fn contrary(gpu: &Gpu) -> Table {
    let mut table = Table::new(gpu);
    for op in OPS {
        for rows in [1, 5, 16, 100] {
            let class = Class::new(op, DType::F32, [rows, 100, 100]);
            let other = exact_variants(gpu, op)
                .into_iter()
                .rfind(|v| *v != class.default_variant(gpu));
            table.add(vec![Choice::new(&class, other.unwrap(), &[(PORTABLE, 1.0)])]);
        }
    }
    table
}

#[test]
fn a_table_is_honoured_and_changes_no_bit() {
    let gpu = open(Tune::Off);
    if !matters(&gpu) {
        return;
    }
    let weight: Vec<f32> = (0..100 * 100).map(|i| (i % 37) as f32 / 37.0 - 0.5).collect();
    let buffer = gpu.upload("w", &weight).unwrap();
    let w = Weight::from_buffer(DType::F32, 100, 100, buffer);
    let products = || -> Vec<u32> {
        let mut bits = Vec::new();
        for m in [1, 5, 16, 100] {
            let x: Vec<f32> = (0..m * 100).map(|i| (i % 53) as f32 / 53.0 - 0.4).collect();
            let x = gpu.upload("x", &x).unwrap();
            let out = [m * 100, m * 100, 100 * 100].map(|n| gpu.upload("y", &vec![f32::NAN; n]).unwrap());
            let mut rec = Recorder::new(&gpu);
            linear::forward(&mut rec, &x, &w, None, &out[0], m, linear::Write::SET).unwrap();
            linear::input_gradient(&mut rec, &x, &w, &out[1], m, linear::Write::SET).unwrap();
            let dw = Weight::from_buffer(DType::F32, 100, 100, out[2].clone());
            linear::weight_gradient(&mut rec, &x, &x, &dw, m, linear::Write::SET).unwrap();
            rec.submit().unwrap();
            for (buffer, n) in out.iter().zip([m * 100, m * 100, 100 * 100]) {
                bits.extend(gpu.read::<u32>(buffer, 0, n).unwrap());
            }
        }
        bits
    };
    let before = products();
    let pipelines = gpu.pipelines_made();
    let table = contrary(&gpu);
    apply(&gpu, &table);
    for choice in &table.choices {
        let key = choice.class().unwrap().key();
        assert_eq!(gpu.choice(key).unwrap(), choice.variant);
    }
    assert!(products() == before);
    assert!(gpu.pipelines_made() > pipelines, "no other kernel ran");
    // The portable variant, forced, wins over the table.
    let mut rec = Recorder::new(&gpu);
    rec.force_variant(Some(PORTABLE));
    let tile = linear_variants::forward(&rec, DType::F32, [100; 3]);
    assert_eq!(tile.kernel.name, "linear_forward_f32");
}

#[test]
fn a_file_is_read_back_unless_its_key_or_contents_are_not_ours() {
    let gpu = open(Tune::Off);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tuned").join("here.json");
    assert!(stored(&gpu, &file).choices.is_empty());
    let table = contrary(&gpu);
    table.save(&file);
    assert_eq!(stored(&gpu, &file), table);
    let text = std::fs::read_to_string(&file).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from));
        std::fs::write(&file, text.replace(from, to)).unwrap();
        stored(&gpu, &file).choices.len()
    };
    // Another driver, other kernels: nothing of it holds.
    let driver = serde_json::to_string(&gpu.report().driver_info).unwrap();
    assert_eq!(
        with(&format!("\"driver_info\": {driver}"), "\"driver_info\": \"1.0\""),
        0
    );
    assert_eq!(with("\"kernels\": \"", "\"kernels\": \"f"), 0);
    // Damaged: cut, or no JSON at all.
    std::fs::write(&file, &text[..text.len() / 2]).unwrap();
    assert!(stored(&gpu, &file).choices.is_empty());
    std::fs::write(&file, [0xff, 0xfe, 0x00]).unwrap();
    assert!(stored(&gpu, &file).choices.is_empty());
    // A variant that there is not, or that gives other bits, is measured anew; the rest holds.
    let of_op = |op: &str| table.choices.iter().filter(|c| c.op == op).count();
    let last = &table.choices.last().unwrap().variant;
    let left = with(&format!("\"variant\": \"{last}\""), "\"variant\": \"coop-8\"");
    assert!(left < table.choices.len() && left <= 2 * of_op(FORWARD_OP));
}

#[test]
fn what_is_missing_is_measured_and_only_that() {
    let gpu = open(Tune::Off);
    let classes: Vec<Class> = Class::forward(DType::F32, 64, 64).collect();
    // Without being asked to, nothing is measured and nothing is written.
    ensure(&gpu, &classes).unwrap();
    assert!(classes.iter().all(|c| gpu.choice(c.key()).is_none()));
    let found = measure::all(&gpu, &classes[..1], None).unwrap();
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!((one.rows.as_str(), one.shape), ("1", [1, 64, 64]));
    let variant = one.variant_on(&gpu).unwrap();
    let default = classes[0].default_variant(&gpu);
    let [chosen, usual] = [variant, default].map(|v| one.ms[v]);
    assert!(one.ms.values().all(|ms| *ms > 0.0) && chosen <= usual, "{one:?}");
    // Time that is up: nothing.
    assert!(
        measure::all(&gpu, &classes, Some(Instant::now()))
            .unwrap()
            .is_empty()
    );
    // Twice the same class is measured once, at its largest.
    let twice = distinct(
        [
            Class::input_gradient(DType::F32, 64, 64),
            Class::input_gradient(DType::F32, 128, 64),
        ]
        .iter(),
    );
    assert_eq!((twice.len(), twice[0].sum), (1, 128));
}
