//! The pieces a model is made of: linear layers, the roles of weights, and one weight's description.

/// The seven linear layers of a block, by their Hugging Face names; also LoRA's target modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proj {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention output.
    O,
    /// SwiGLU's gate.
    Gate,
    /// SwiGLU's other input.
    Up,
    /// Back to the hidden size.
    Down,
}

impl Proj {
    /// All seven, in the order of the forward pass.
    pub const ALL: [Self; 7] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// The module's name: "q_proj", …
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }

    /// The module with that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name() == name)
    }

    /// The module's full path in block `layer`: "model.layers.3.self_attn.q_proj".
    pub fn path(self, layer: usize) -> String {
        let part = match self {
            Self::Q | Self::K | Self::V | Self::O => "self_attn",
            Self::Gate | Self::Up | Self::Down => "mlp",
        };
        format!("model.layers.{layer}.{part}.{}", self.name())
    }
}

/// What a weight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Token embedding (V, C).
    Embedding,
    /// RMS-norm weight before attention (C).
    AttnNorm,
    /// RMS-norm weight before the MLP (C).
    MlpNorm,
    /// RMS-norm weight before the head (C).
    FinalNorm,
    /// RMS-norm weight on each query head (head_dim).
    QNorm,
    /// RMS-norm weight on each key head (head_dim).
    KNorm,
    /// A linear layer's weight (out, in).
    Weight(Proj),
    /// A linear layer's bias (out).
    Bias(Proj),
    /// Untied vocabulary head (V, C).
    LmHead,
    /// Sequence-classification head (1, C).
    Score,
}

impl Role {
    /// Whether the tensor is loaded in the model's element type; everything else is f32.
    pub fn is_matrix(self) -> bool {
        matches!(self, Self::Weight(_) | Self::Embedding | Self::LmHead)
    }
}

/// One weight a model must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The Hugging Face name.
    pub name: String,
    /// `[n]`, or `[rows, cols]` = (out, in).
    pub shape: Vec<usize>,
    /// What it is for.
    pub role: Role,
    /// The block it belongs to; `None` for embedding, final norm and heads.
    pub layer: Option<usize>,
}
