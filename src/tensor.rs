//! Shape, element type and buffer handle; no mathematics.
