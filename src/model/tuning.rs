//! The matrix products of a model, for [`tune`](crate::kernels::tune).

use super::params::{Model, Param};
use crate::error::Result;
use crate::kernels::tune::{self, Class};
use crate::tensor::DType;

impl Model {
    /// Measures which kernel variants are fastest for this model's products, where the device was opened to do so and it is not
    /// known yet; at most a few seconds. It changes no bit of any result.
    ///
    /// # Errors
    /// A GPU error.
    pub fn tune(&self) -> Result<()> {
        tune::ensure(&self.gpu, &self.classes())
    }

    /// The classes of the products that this model computes, gradients where it has trainable parts.
    pub fn classes(&self) -> Vec<Class> {
        let mut out = Vec::new();
        let trains = !self.trainable().is_empty();
        let Some(block) = self.blocks.first() else {
            return out;
        };
        for linear in &block.linears {
            of(&mut out, &linear.weight, trains);
            if let Some(pair) = &linear.lora {
                of(&mut out, &pair.a, trains);
                of(&mut out, &pair.b, trains);
            }
        }
        // What most of the time goes to comes first, in case the time is up before the end.
        out.sort_by_key(|c| c.dtype == DType::F32 && c.width() != "wide");
        out
    }
}

fn of(out: &mut Vec<Class>, param: &Param, trains: bool) {
    let w = &param.value;
    out.extend(Class::forward(w.dtype, w.rows, w.cols));
    if trains {
        out.push(Class::input_gradient(w.dtype, w.rows, w.cols));
    }
    if param.grad.is_some() {
        out.push(Class::weight_gradient(w.rows, w.cols));
    }
}
