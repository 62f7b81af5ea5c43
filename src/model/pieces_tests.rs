#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::gpu::{Gpu, GpuOptions, Recorder};
use crate::kernels::weight::Weight;
use crate::model::backward::merge;
use crate::model::params::Param;

fn group<'a>(prefix: &'a [u32], lengths: &[usize]) -> Group<'a> {
    static TOKENS: [u32; 64] = [3; 64];
    Group {
        prefix,
        suffixes: lengths.iter().map(|n| &TOKENS[..*n]).collect(),
    }
}

/// The tree over the places `range`, by its definition: the left half is the largest power of two below the length.
fn tree<T>(range: Range<usize>, leaf: &dyn Fn(usize) -> T, join: &dyn Fn(T, T) -> T) -> T {
    if range.len() == 1 {
        return leaf(range.start);
    }
    let half = range.len().next_power_of_two() / 2;
    let middle = range.start + half;
    join(
        tree(range.start..middle, leaf, join),
        tree(middle..range.end, leaf, join),
    )
}

#[test]
fn the_counter_walks_the_tree() {
    let walked = |places: usize, at_once: bool| {
        let mut slots = vec![String::new(); Summand::extra_slots(places) + 1];
        for place in 0..places {
            let sum = Summand::of((place, places), (0, 1));
            // With a kernel that adds to what waits already, or without one.
            let sum = if at_once { sum.at_once() } else { sum };
            slots[sum.slot] = match sum.begins {
                true => format!("{place}"),
                false => format!("({}+{place})", slots[sum.slot]),
            };
            for to in (0..sum.slot).rev().take(sum.merges) {
                slots[to] = format!("({}+{})", slots[to], slots[to + 1]);
            }
        }
        slots.swap_remove(0)
    };
    assert_eq!(walked(1, false), "0");
    assert_eq!(walked(5, false), "(((0+1)+(2+3))+4)");
    assert_eq!(walked(7, false), "(((0+1)+(2+3))+((4+5)+6))");
    for places in 1..200 {
        let want = tree(0..places, &|i| format!("{i}"), &|a, b| format!("({a}+{b})"));
        assert_eq!(walked(places, false), want);
        assert_eq!(walked(places, true), want);
        let most = (0..places).map(|i| Summand::of((i, places), (0, 1)).slot).max();
        assert_eq!(most, Some(Summand::extra_slots(places)));
    }
}

/// Values whose sums round, so that another order has other bits.
fn gradient(place: usize) -> Vec<f32> {
    let value = |i: usize| ((place * 37 + i * 11) as f32 * 0.37).sin() * 10f32.powi((i % 5) as i32 - 2);
    (0..24).map(value).collect()
}

#[test]
fn the_device_adds_prompts_in_the_order_of_the_tree() {
    let gpu = Gpu::open(&GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    })
    .unwrap();
    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let mut differ = false;
    for places in 1..=9 {
        let zeros = || Weight::zeros(&gpu, "test", 3, 8).unwrap();
        let mut param = Param::frozen(zeros());
        param.grad = Some(zeros());
        param.waiting = (0..Summand::extra_slots(places)).map(|_| zeros()).collect();
        let mut rec = Recorder::new(&gpu);
        for place in 0..places {
            let sum = Summand::of((place, places), (0, 1));
            let slot = param.gradient(sum.slot).unwrap();
            rec.write(&slot.shards[0].buffer, 0, &gradient(place)).unwrap();
            merge(&mut rec, &param, sum).unwrap();
        }
        rec.submit().unwrap();
        let got = param.grad.unwrap().read_f32(&gpu).unwrap();
        let add = |a: Vec<f32>, b: Vec<f32>| -> Vec<f32> { a.iter().zip(&b).map(|(a, b)| a + b).collect() };
        let want = tree(0..places, &gradient, &add);
        assert_eq!(bits(&got), bits(&want), "{places} prompts");
        let ascending = (1..places).map(gradient).fold(gradient(0), add);
        differ |= bits(&ascending) != bits(&want);
    }
    assert!(differ, "the orders could not be told apart");
}

#[test]
fn pieces_follow_from_lengths_alone() {
    let groups = [
        group(&[1, 2, 3], &[5, 4, 4, 9]),
        group(&[1], &[20]),
        group(&[1, 2], &[1, 1, 1]),
    ];
    let cut = |order| Pieces::cut(&groups, 12, order, false);
    let samples = |p: &Pieces| -> Vec<(usize, Range<usize>)> {
        p.all.iter().map(|p| (p.group, p.samples.clone())).collect()
    };
    let pieces = cut(Order::Tree);
    // 3 + 5 + 4 tokens fill a piece; a sample that is too long is one by itself.
    let want = [(0, 0..2), (0, 2..3), (0, 3..4), (1, 0..1), (2, 0..3)];
    assert_eq!(samples(&pieces), want);
    let sums: Vec<_> = pieces
        .all
        .iter()
        .map(|p| (p.sum.slot, p.sum.begins, p.sum.merges))
        .collect();
    assert_eq!(
        sums,
        [
            (0, true, 0),
            (0, false, 0),
            (0, false, 0),
            (1, true, 1),
            (1, true, 1)
        ]
    );
    let ascending = cut(Order::Ascending);
    assert_eq!(samples(&ascending), want);
    assert!(ascending.all.iter().all(|p| p.sum == Summand::ADD));
    // A micro-batch holds whole pieces: of 10, 6, 11, 20 and 2 rows.
    let pack = |rows, readouts| pieces.pack(&groups, rows, readouts).unwrap();
    assert_eq!(pack(100, 100), vec![0..5; 1]);
    assert_eq!(pack(20, 100), [0..2, 2..3, 3..4, 4..5]);
    assert_eq!(pack(27, 100), [0..3, 3..5]);
    assert_eq!(pack(100, 22), [0..3, 3..4, 4..5]);
    assert!(pieces.pack(&groups, 19, 100).is_err());
    let alone = Pieces::cut(&groups, 12, Order::Tree, true);
    assert_eq!(
        alone.pack(&groups, 100, 100).unwrap(),
        [0..1, 1..2, 2..3, 3..4, 4..5]
    );
}
