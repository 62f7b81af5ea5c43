//! The header of a safetensors file: 8 bytes of length, that many bytes of JSON, then the tensors one after another.
//!
//! What a header may take is bounded before memory is taken. Types and rules are those of the `safetensors` crate, which
//! wants the whole file in memory: tensors follow one another without gaps, from the end of the header to the end of the file.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use safetensors::tensor::TensorInfo;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};

use super::bytes::ReadAt;
use crate::error::{Error, Result};
use crate::file::limits::{SAFETENSORS_HEADER, TENSOR_NAME, TENSORS};

/// Where the JSON begins.
const PREFIX: usize = 8;

/// A tensor as the header describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// The format's name of its element type: "F32", "BF16", ….
    pub kind: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its bytes in the file.
    pub range: Range<usize>,
}

/// Reads the header of a file; `name` begins messages.
///
/// # Errors
/// A user error: the file is cut, no safetensors file, beyond a limit, or its tensors do not fill it.
pub fn read_header(bytes: &(impl ReadAt + ?Sized), name: &str) -> Result<BTreeMap<String, Described>> {
    let size = bytes.size();
    let broken = |what: &dyn fmt::Display| {
        Error::user(format!(
            "{name}: not a whole safetensors file ({what}), {size} bytes; download it again"
        ))
    };
    if size < PREFIX {
        return Err(broken(&"it is too short for a header"));
    }
    let mut length = [0; PREFIX];
    bytes.read_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    // A length beyond the file is told first: it is what a file of another format shows.
    let end = usize::try_from(length).ok().and_then(|n| n.checked_add(PREFIX));
    let Some(data) = end.filter(|end| *end <= size) else {
        return Err(broken(&format!("its header would have {length} bytes")));
    };
    SAFETENSORS_HEADER.check(name, length)?;
    let header = bytes.read(PREFIX..data)?;
    let (mut tensors, mut beyond) = (Vec::new(), None);
    let found = Header {
        name,
        tensors: &mut tensors,
        beyond: &mut beyond,
    };
    let mut json = serde_json::Deserializer::from_slice(&header);
    let parsed = found.deserialize(&mut json).and_then(|()| json.end());
    if let Some(error) = beyond {
        return Err(error);
    }
    parsed.map_err(|e| broken(&format!("its header: {e}")))?;
    drop(header);
    place(tensors, data, size).map_err(|what| broken(&what))
}

/// Checks that the tensors fill the file, and makes their places absolute.
fn place(
    mut tensors: Vec<(String, TensorInfo)>,
    data: usize,
    size: usize,
) -> Result<BTreeMap<String, Described>, String> {
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let mut placed = BTreeMap::new();
    let mut at = data;
    for (tensor, info) in tensors {
        let bits = info.dtype.bitsize();
        let elements = info.shape.iter().try_fold(1usize, |a, b| a.checked_mul(*b));
        let Some(all_bits) = elements.and_then(|n| n.checked_mul(bits)) else {
            return Err(format!("tensor {tensor} is impossibly large"));
        };
        let absolute = |offset: usize| offset.checked_add(data);
        let (start, end) = (absolute(info.data_offsets.0), absolute(info.data_offsets.1));
        let (Some(start), Some(end)) = (start, end) else {
            return Err(format!("tensor {tensor} lies outside of the file"));
        };
        if start != at || end < start {
            let (from, to) = info.data_offsets;
            return Err(format!(
                "tensor {tensor} has offsets {from} to {to}, where {} is next: tensors follow one another",
                at - data
            ));
        }
        if !all_bits.is_multiple_of(8) || end - start != all_bits / 8 {
            return Err(format!(
                "tensor {tensor} of shape {:?} has {} bytes, and {} has {bits} bits",
                info.shape,
                end - start,
                info.dtype
            ));
        }
        at = end;
        let described = Described {
            kind: info.dtype.to_string(),
            shape: info.shape,
            range: start..end,
        };
        if placed.insert(tensor.clone(), described).is_some() {
            return Err(format!("tensor {tensor} is there twice"));
        }
    }
    if at != size {
        return Err(format!(
            "its tensors end at byte {at} and the file at byte {size}"
        ));
    }
    Ok(placed)
}

/// Collects the tensors of a header.
struct Header<'a> {
    name: &'a str,
    tensors: &'a mut Vec<(String, TensorInfo)>,
    /// The limit that stopped the reading.
    beyond: &'a mut Option<Error>,
}

impl<'de> DeserializeSeed<'de> for Header<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Header<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(tensor) = map.next_key::<String>()? {
            if tensor == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let checked = TENSOR_NAME
                .check(self.name, tensor.len())
                .and_then(|()| TENSORS.check(self.name, self.tensors.len() + 1));
            if let Err(error) = checked {
                *self.beyond = Some(error);
                return Err(A::Error::custom("beyond a limit"));
            }
            self.tensors.push((tensor, map.next_value()?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.resize(out.len() + data, 0);
        out
    }

    fn refused(bytes: &[u8]) -> String {
        let error = read_header(&bytes, "m.safetensors").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let said = error.to_string();
        assert!(said.starts_with("m.safetensors: "), "{said}");
        said
    }

    /// One tensor `a`, with this description.
    fn one(kind: &str, shape: &str, offsets: &str, data: usize) -> Vec<u8> {
        let header = format!(r#"{{"a":{{"dtype":"{kind}","shape":{shape},"data_offsets":{offsets}}}}}"#);
        file(&header, data)
    }

    #[test]
    fn tensors_are_found_where_they_are() {
        let header = r#"{"__metadata__":{"format":"pt","deep":[[1]]},
            "b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},
            "a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
            "c":{"dtype":"F4","shape":[4],"data_offsets":[16,18]},
            "d":{"dtype":"F32","shape":[0,7],"data_offsets":[18,18]}}"#;
        let start = 8 + header.len();
        let found = read_header(&&file(header, 18)[..], "m").unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!(found["a"].range, start..start + 4);
        assert_eq!(
            (found["b"].kind.as_str(), &found["b"].shape[..]),
            ("BF16", &[2, 3][..])
        );
        assert_eq!(found["c"].range, start + 16..start + 18);
        assert!(read_header(&&file("{}   ", 0)[..], "m").unwrap().is_empty());
    }

    #[test]
    fn what_does_not_fill_the_file_is_refused() {
        let big = u64::MAX.to_string();
        for (bytes, why) in [
            (vec![0; 7], "too short"),
            (
                [0xff; 64].to_vec(),
                "its header would have 18446744073709551615 bytes",
            ),
            (file("{}", 1), "tensors end at byte 10 and the file at byte 11"),
            (file("[]", 0), "an object of tensors"),
            (file("{}{}", 0), "trailing characters"),
            (file("{\"a\":", 0), "EOF"),
            (one("F32", "[1]", "[0,4]", 3), "and the file at byte"),
            (one("F32", "[1]", "[4,8]", 8), "where 0 is next"),
            (one("F32", "[1]", "[4,0]", 4), "where 0 is next"),
            (
                one("F32", "[2]", "[0,4]", 4),
                "of shape [2] has 4 bytes, and F32 has 32 bits",
            ),
            (one("F4", "[3]", "[0,2]", 2), "has 4 bits"),
            (one("NOPE", "[1]", "[0,4]", 4), "unknown variant `NOPE`"),
            (one("F32", "[-1]", "[0,4]", 4), "expected usize"),
            (
                one("F32", &format!("[{big},{big}]"), "[0,4]", 4),
                "impossibly large",
            ),
            (
                one("F32", &format!("[{big}]"), &format!("[0,{big}]"), 4),
                "impossibly large",
            ),
            (one("I8", "[8]", &format!("[{big},{big}]"), 4), "lies outside"),
        ] {
            let said = refused(&bytes);
            assert!(said.contains(why) && said.contains("download it again"), "{said}");
        }
        let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
        assert!(refused(&file(twice, 2)).contains("tensor a is there twice"));
        let over = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
        assert!(refused(&file(over, 3)).contains("tensor b has offsets 1 to 3"));
    }

    #[test]
    fn a_header_is_bounded_before_it_is_read() {
        let deep = format!("{{\"a\":{{\"dtype\":{}", "[".repeat(1 << 20));
        assert!(refused(&file(&deep, 0)).contains("its header"));
        let deep = format!(
            "{{\"__metadata__\":{}{}}}",
            "[".repeat(1 << 20),
            "]".repeat(1 << 20)
        );
        assert!(read_header(&&file(&deep, 0)[..], "m").unwrap().is_empty());
        let name = "n".repeat(5000);
        let long = format!(r#"{{"{name}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}}}"#);
        let said = refused(&file(&long, 0));
        assert!(
            said.contains("length of a tensor's name: 4.9 KiB, where the limit is 4 KiB"),
            "{said}"
        );
        // The size of the header is compared before it is read: this source has no bytes to give.
        struct Claimed;
        impl ReadAt for Claimed {
            fn size(&self) -> usize {
                1 << 40
            }
            fn read_at(&self, at: usize, out: &mut [u8]) -> Result<()> {
                assert_eq!((at, out.len()), (0, 8));
                out.copy_from_slice(&(1u64 << 30).to_le_bytes());
                Ok(())
            }
        }
        let said = read_header(&Claimed, "m").unwrap_err().to_string();
        assert!(said.contains("size of a safetensors header: 1 GiB"), "{said}");
    }

    #[test]
    fn the_crate_reads_the_same() {
        let header = r#"{"w":{"dtype":"F16","shape":[3],"data_offsets":[8,14]},"v":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
        let bytes = file(header, 14);
        let ours = read_header(&&bytes[..], "m").unwrap();
        let (start, theirs) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        for (name, info) in theirs.tensors() {
            let (from, to) = info.data_offsets;
            assert_eq!(ours[&name].range, 8 + start + from..8 + start + to);
            assert_eq!(ours[&name].shape, info.shape);
            assert_eq!(ours[&name].kind, format!("{:?}", info.dtype));
        }
        assert_eq!(ours.len(), 2);
    }
}
