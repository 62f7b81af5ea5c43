//! Thrift's compact protocol, as far as Parquet's footers and page headers use it, without taking memory for what they claim.

/// Why bytes are no Thrift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// They end too early.
    Cut,
    /// They are something else.
    Wrong(&'static str),
}

type Result<T> = std::result::Result<T, Fault>;

/// What a field is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool(bool),
    Byte,
    Int,
    Double,
    Binary,
    List,
    Map,
    Struct,
    Uuid,
}

impl Kind {
    fn of(code: u8) -> Result<Self> {
        Ok(match code {
            1 => Self::Bool(true),
            2 => Self::Bool(false),
            3 => Self::Byte,
            4..=6 => Self::Int,
            7 => Self::Double,
            8 => Self::Binary,
            9 | 10 => Self::List,
            11 => Self::Map,
            12 => Self::Struct,
            13 => Self::Uuid,
            _ => return Err(Fault::Wrong("a field of no known type")),
        })
    }
}

/// How deep structures that nobody knows may lie in each other.
const DEPTH: usize = 32;

/// A place in bytes.
pub(super) struct Thrift<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Thrift<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bytes were read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.at).ok_or(Fault::Cut)?;
        self.at += 1;
        Ok(byte)
    }

    /// A whole number from 0.
    pub(super) fn unsigned(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::Wrong("a number of more than 64 bits"))
    }

    /// A whole number.
    pub(super) fn int(&mut self) -> Result<i64> {
        let value = self.unsigned()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// Passes bytes.
    pub(super) fn pass(&mut self, n: u64) -> Result<usize> {
        let left = self.bytes.len() - self.at;
        let n = usize::try_from(n).ok().filter(|n| *n <= left).ok_or(Fault::Cut)?;
        self.at += n;
        Ok(n)
    }

    /// Passes bytes with their length; how many they are.
    pub(super) fn binary(&mut self) -> Result<usize> {
        let n = self.unsigned()?;
        self.pass(n)
    }

    /// The next field of a structure and its kind; `None` at its end. `last` is the field before.
    pub(super) fn field(&mut self, last: &mut i16) -> Result<Option<(i16, Kind)>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        let kind = Kind::of(byte & 0xf)?;
        let wrong = Fault::Wrong("a field whose number is no small one");
        let id = match byte >> 4 {
            0 => i16::try_from(self.int()?).map_err(|_| wrong)?,
            step => last.checked_add(i16::from(step)).ok_or(wrong)?,
        };
        *last = id;
        Ok(Some((id, kind)))
    }

    /// The kind and number of a list's items. Each takes a byte at least, so that no list is longer than what is left.
    pub(super) fn list(&mut self) -> Result<(Kind, usize)> {
        let byte = self.byte()?;
        let n = match byte >> 4 {
            15 => self.unsigned()?,
            n => u64::from(n),
        };
        let left = self.bytes.len() - self.at;
        let n = usize::try_from(n).ok().filter(|n| *n <= left).ok_or(Fault::Cut)?;
        let kind = Kind::of(byte & 0xf)?;
        // The parquet crate passes over lists of booleans as if their items took no bytes.
        if n > 0 && matches!(kind, Kind::Bool(_)) {
            return Err(Fault::Wrong("a list of booleans"));
        }
        Ok((kind, n))
    }

    /// Passes a field that nobody reads.
    pub(super) fn skip(&mut self, kind: Kind) -> Result<()> {
        self.skip_within(kind, DEPTH)
    }

    fn skip_within(&mut self, kind: Kind, depth: usize) -> Result<()> {
        let Some(depth) = depth.checked_sub(1) else {
            return Err(Fault::Wrong("structures nested too deep"));
        };
        match kind {
            Kind::Bool(_) => {}
            Kind::Byte => _ = self.byte()?,
            Kind::Int => _ = self.unsigned()?,
            Kind::Double => _ = self.pass(8)?,
            Kind::Uuid => _ = self.pass(16)?,
            Kind::Binary => _ = self.binary()?,
            Kind::List => {
                let (item, n) = self.list()?;
                for _ in 0..n {
                    self.skip_within(item, depth)?;
                }
            }
            Kind::Struct => {
                let mut last = 0;
                while let Some((_, kind)) = self.field(&mut last)? {
                    self.skip_within(kind, depth)?;
                }
            }
            Kind::Map if self.unsigned()? == 0 => {}
            Kind::Map => return Err(Fault::Wrong("a map")),
        }
        Ok(())
    }
}
