//! The pickle subset that `torch.save` writes for a dict of tensors (protocol 2). Owns a small
//! stack machine that builds only strings, integers, tuples, dicts and tensor descriptions: nothing
//! is imported or called, every other name or opcode is refused; source: CPython `pickletools`.
//!
//! Work and memory are linear in the pickle's length: values are shared, never copied, and tuples
//! nest at most [`MAX_DEPTH`] deep, so that neither printing nor dropping them recurses far.

use crate::weights::DType;
use std::collections::HashMap;
use std::rc::Rc;

/// Longest pickle accepted. A tensor takes about 110 bytes.
pub const MAX_PICKLE_BYTES: u64 = 8 << 20;
/// Deepest nesting of tuples; a tensor needs 2.
const MAX_DEPTH: usize = 8;
/// Most values on the stack. Python writes dicts in batches of 1,000 pairs.
const MAX_STACK: usize = 1 << 14;
/// Most memo slots, and most dicts.
const MAX_OBJECTS: usize = 1 << 20;

/// A tensor as the pickle describes it, not yet checked against its storage.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub dtype: DType,
    /// Entry `data/<key>` of the archive.
    pub storage_key: Rc<str>,
    /// Elements of the storage.
    pub storage_len: u64,
    /// First element of the tensor in the storage.
    pub offset: u64,
    pub shape: Vec<u64>,
    pub stride: Vec<u64>,
}

/// A tensor and the name it is stored under.
pub type NamedTensor = (Rc<str>, Rc<Tensor>);

/// Why a pickle is refused.
#[derive(Debug, PartialEq)]
pub enum Refusal {
    /// It is broken or hostile.
    Invalid(String),
    /// It is valid, but holds (named) things that a tensor file does not need.
    Unsupported(String),
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Invalid(reason.into()))
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal::Unsupported(what.into()))
}

/// The only names that a pickle may mention.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Global {
    RebuildTensor,
    OrderedDict,
    Storage(DType),
}

impl Global {
    fn from_name(module: &str, name: &str) -> Result<Global, Refusal> {
        match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
            ("collections", "OrderedDict") => Ok(Global::OrderedDict),
            ("torch", "FloatStorage") => Ok(Global::Storage(DType::F32)),
            ("torch", "HalfStorage") => Ok(Global::Storage(DType::F16)),
            ("torch", "BFloat16Storage") => Ok(Global::Storage(DType::BF16)),
            _ => unsupported(format!("the pickled name `{module}.{name}`")),
        }
    }
}

#[derive(Debug, Clone)]
enum Value {
    None,
    Bool,
    Int(i64),
    Str(Rc<str>),
    /// With its nesting depth.
    Tuple(Rc<[Value]>, usize),
    /// Index into [`Machine::dicts`].
    Dict(usize),
    Global(Global),
    Storage {
        dtype: DType,
        key: Rc<str>,
        len: u64,
    },
    Tensor(Rc<Tensor>),
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Value::None => "None",
            Value::Bool => "a boolean",
            Value::Int(_) => "an integer",
            Value::Str(_) => "a string",
            Value::Tuple(..) => "a tuple",
            Value::Dict(_) => "a dict",
            Value::Global(_) => "a class",
            Value::Storage { .. } => "a storage",
            Value::Tensor(_) => "a tensor",
        }
    }
}

/// The tensors of a pickled dict, in its order; names are unique.
///
/// # Errors
/// [`Refusal`] for anything but a dict of tensors.
pub fn read_tensors(bytes: &[u8]) -> Result<Vec<NamedTensor>, Refusal> {
    if bytes.len() as u64 > MAX_PICKLE_BYTES {
        return invalid(format!("{} bytes are too many", bytes.len()));
    }
    let mut machine = Machine {
        rest: bytes,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        dicts: Vec::new(),
    };
    let root = machine.run()?;
    let Value::Dict(root) = root else {
        return unsupported(format!("{} instead of a dict of tensors", root.kind()));
    };
    let mut tensors = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (key, value) in std::mem::take(&mut machine.dicts[root]) {
        match (key, value) {
            (Value::Str(name), Value::Tensor(tensor)) => {
                if !seen.insert(name.clone()) {
                    return invalid(format!("tensor {name:?} is listed twice"));
                }
                tensors.push((name, tensor));
            }
            (Value::Str(name), other) => {
                return unsupported(format!("{} under {name:?}", other.kind()));
            }
            (key, _) => return unsupported(format!("{} as the name of a tensor", key.kind())),
        }
    }
    Ok(tensors)
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value>,
    /// Stack lengths at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    dicts: Vec<Vec<(Value, Value)>>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Value, Refusal> {
        loop {
            match self.bytes(1)?[0] {
                0x80 => match self.bytes(1)?[0] {
                    2 => {}
                    other => return unsupported(format!("pickle protocol {other}")),
                },
                b'.' => return self.pop(),
                b'(' => {
                    if self.marks.len() == MAX_STACK {
                        return invalid("too many marks");
                    }
                    self.marks.push(self.stack.len());
                }
                b'N' => self.push(Value::None)?,
                0x88 | 0x89 => self.push(Value::Bool)?,
                b'K' => {
                    let n = self.bytes(1)?[0];
                    self.push(Value::Int(n.into()))?;
                }
                b'M' => {
                    let n = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()))?;
                }
                b'J' => {
                    let n = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(n.into()))?;
                }
                0x8a => self.long()?,
                b'X' => {
                    let len = u32::from_le_bytes(self.array()?);
                    let text = std::str::from_utf8(self.bytes(len as usize)?);
                    match text {
                        Ok(text) => self.push(Value::Str(text.into()))?,
                        Err(_) => return invalid("a string is not UTF-8"),
                    }
                }
                b'}' => self.dict()?,
                b')' => self.tuple(0)?,
                0x85 => self.tuple_of(1)?,
                0x86 => self.tuple_of(2)?,
                0x87 => self.tuple_of(3)?,
                b't' => {
                    let start = self.mark()?;
                    self.tuple(self.stack.len() - start)?;
                }
                b'q' => {
                    let slot = self.bytes(1)?[0];
                    self.remember(slot.into())?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.remember(slot)?;
                }
                b'h' => {
                    let slot = self.bytes(1)?[0];
                    self.recall(slot.into())?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.array()?);
                    self.recall(slot)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let global = Global::from_name(module, name)?;
                    self.push(Value::Global(global))?;
                }
                b'Q' => self.storage()?,
                b'R' => self.reduce()?,
                b's' => {
                    let start = self.stack.len().checked_sub(2);
                    self.set_items(start)?;
                }
                b'u' => {
                    let start = self.mark()?;
                    self.set_items(Some(start))?;
                }
                other => return unsupported(format!("pickle opcode 0x{other:02x}")),
            }
        }
    }

    fn bytes(&mut self, n: usize) -> Result<&'a [u8], Refusal> {
        match self.rest.split_at_checked(n) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => invalid("the pickle is cut short"),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let mut array = [0; N];
        array.copy_from_slice(self.bytes(N)?);
        Ok(array)
    }

    fn line(&mut self) -> Result<&'a str, Refusal> {
        let Some(len) = self.rest.iter().position(|&b| b == b'\n') else {
            return invalid("the pickle is cut short");
        };
        let line = self.bytes(len + 1)?;
        std::str::from_utf8(&line[..len]).or_else(|_| invalid("a name is not UTF-8"))
    }

    fn push(&mut self, value: Value) -> Result<(), Refusal> {
        if self.stack.len() == MAX_STACK {
            return invalid(format!("more than {MAX_STACK} values on the stack"));
        }
        self.stack.push(value);
        Ok(())
    }

    /// Takes the top value; what stands below an open mark is out of reach.
    fn pop(&mut self) -> Result<Value, Refusal> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() > floor
            && let Some(value) = self.stack.pop()
        {
            return Ok(value);
        }
        invalid("an operation finds too few values")
    }

    /// Closes the last mark and gives the position of the first value after it.
    fn mark(&mut self) -> Result<usize, Refusal> {
        match self.marks.pop() {
            // Nothing takes values from below an open mark, so this always holds.
            Some(start) if start <= self.stack.len() => Ok(start),
            _ => invalid("a mark is missing"),
        }
    }

    fn long(&mut self) -> Result<(), Refusal> {
        let len = self.bytes(1)?[0] as usize;
        let bytes = self.bytes(len)?;
        if len > 8 {
            return invalid("an integer has more than 64 bits");
        }
        let sign = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xFF } else { 0 };
        let mut padded = [sign; 8];
        padded[..len].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(padded)))
    }

    fn dict(&mut self) -> Result<(), Refusal> {
        if self.dicts.len() == MAX_OBJECTS {
            return invalid("too many dicts");
        }
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    fn tuple_of(&mut self, n: usize) -> Result<(), Refusal> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() < floor + n {
            return invalid("an operation finds too few values");
        }
        self.tuple(n)
    }

    /// Replaces the top `n` values by a tuple of them.
    fn tuple(&mut self, n: usize) -> Result<(), Refusal> {
        let items = self.stack.split_off(self.stack.len() - n);
        let depth = |v: &Value| match v {
            Value::Tuple(_, depth) => *depth,
            _ => 0,
        };
        let depth = 1 + items.iter().map(depth).max().unwrap_or(0);
        if depth > MAX_DEPTH {
            return invalid(format!("tuples nest more than {MAX_DEPTH} deep"));
        }
        self.push(Value::Tuple(items.into(), depth))
    }

    fn remember(&mut self, slot: u32) -> Result<(), Refusal> {
        let Some(value) = self.stack.last().cloned() else {
            return invalid("nothing to remember");
        };
        if self.memo.len() == MAX_OBJECTS {
            return invalid("too many memo slots");
        }
        self.memo.insert(slot, value);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), Refusal> {
        match self.memo.get(&slot).cloned() {
            Some(value) => self.push(value),
            None => invalid(format!("memo slot {slot} is empty")),
        }
    }

    fn set_items(&mut self, start: Option<usize>) -> Result<(), Refusal> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let Some(start) = start.filter(|&start| start > floor) else {
            return invalid("an operation finds too few values");
        };
        let items = self.stack.split_off(start);
        let Some(&Value::Dict(dict)) = self.stack.last() else {
            return invalid("items are set in something that is not a dict");
        };
        if !items.len().is_multiple_of(2) {
            return invalid("a key lacks its value");
        }
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            self.dicts[dict].push((key, value));
        }
        Ok(())
    }

    /// `('storage', class, key, location, number of elements)`; the location does not matter here.
    fn storage(&mut self) -> Result<(), Refusal> {
        let id = self.pop()?;
        if let Value::Tuple(items, _) = &id
            && let [
                Value::Str(tag),
                Value::Global(Global::Storage(dtype)),
                Value::Str(key),
                Value::Str(_location),
                Value::Int(len),
            ] = &items[..]
            && &**tag == "storage"
            && let Ok(len) = u64::try_from(*len)
        {
            return self.push(Value::Storage { dtype: *dtype, key: key.clone(), len });
        }
        invalid("a persistent id does not describe a storage")
    }

    fn reduce(&mut self) -> Result<(), Refusal> {
        let arguments = self.pop()?;
        let callable = self.pop()?;
        let Value::Tuple(arguments, _) = arguments else {
            return invalid("a call without arguments");
        };
        match (callable, &arguments[..]) {
            (Value::Global(Global::OrderedDict), []) => self.dict(),
            (
                Value::Global(Global::RebuildTensor),
                [
                    Value::Storage { dtype, key, len },
                    Value::Int(offset),
                    Value::Tuple(shape, _),
                    Value::Tuple(stride, _),
                    Value::Bool,
                    Value::Dict(_) | Value::None,
                ],
            ) => {
                let (Ok(offset), Some(shape), Some(stride)) =
                    (u64::try_from(*offset), sizes(shape), sizes(stride))
                else {
                    return invalid("a tensor has an impossible offset, shape or stride");
                };
                self.push(Value::Tensor(Rc::new(Tensor {
                    dtype: *dtype,
                    storage_key: key.clone(),
                    storage_len: *len,
                    offset,
                    shape,
                    stride,
                })))
            }
            (Value::Global(global), _) => invalid(format!("wrong arguments for {global:?}")),
            (other, _) => invalid(format!("{} is called", other.kind())),
        }
    }
}

/// At most 8 sizes or strides.
fn sizes(items: &[Value]) -> Option<Vec<u64>> {
    if items.len() > 8 {
        return None;
    }
    let size = |item: &Value| match item {
        Value::Int(n) => u64::try_from(*n).ok(),
        _ => None,
    };
    items.iter().map(size).collect()
}
