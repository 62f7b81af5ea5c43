//! The ring of a model whose blocks differ in their types.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::gpu::GpuOptions;
use crate::model::shapes::Named;

fn open() -> Gpu {
    Gpu::open(&GpuOptions {
        device: std::env::var("TEA_DEVICE").ok(),
        ..Default::default()
    })
    .unwrap()
}

/// Types may differ from block to block, as in files quantised to a mixture.
#[test]
fn a_place_is_as_wide_as_the_widest_of_its_blocks() {
    let spec = ModelSpec {
        hidden_size: 256,
        intermediate_size: 512,
        num_layers: 5,
        ..Named::find("smollm2-135m").unwrap().spec()
    };
    let mixed = |t: &TensorSpec| {
        Ok(match (t.layer, t.role) {
            (Some(2), Role::Weight(Proj::Down)) => DType::Q6K,
            (Some(3), Role::Weight(Proj::V)) => DType::Q8_0,
            _ => DType::Q4_0,
        })
    };
    let layers = linears(&spec, &mixed).unwrap();
    let places = widest(&layers);
    let wide = |place: usize, proj: Proj| places[place][proj as usize].2;
    assert_eq!(
        (wide(0, Proj::Down), wide(1, Proj::Down)),
        (DType::Q6K, DType::Q4_0)
    );
    assert_eq!((wide(0, Proj::V), wide(1, Proj::V)), (DType::Q4_0, DType::Q8_0));
    assert_eq!(places[0][Proj::Down as usize].0, 256);
    assert_eq!(places[0][Proj::Down as usize].1, 512);
    let gpu = open();
    let streamed = Streamed {
        store: Arc::new(WeightStore::described(&spec, "sizes", DType::Q4_0)),
        layers,
    };
    let ring = Ring::new(&gpu, &streamed).unwrap();
    let bytes = |(rows, cols, dtype): &(usize, usize, DType)| device_bytes(*dtype, *rows, *cols);
    let places: u64 = places.iter().flatten().map(bytes).sum();
    assert_eq!(gpu.memory().by_owner["weights"], places);
    let (a, b) = (
        ring.weight(&streamed, 0, Proj::Down),
        ring.weight(&streamed, 2, Proj::Down),
    );
    assert_eq!((a.dtype, b.dtype), (DType::Q4_0, DType::Q6K));
    assert_eq!(a.shards[0].buffer.bytes(), device_bytes(DType::Q6K, 256, 512));
}
