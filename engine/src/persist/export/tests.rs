//! Round trips in Rust, and through Python's numpy and safetensors where there are any.

use std::{collections::BTreeMap, fs::File, io, path::Path, process::Command};

use windlass_wire::DataType;

use super::{ExportError, HEADER_BYTES_MAX, RowSink, RowSource, TableShape, npy, safetensors};

#[derive(Debug, Default, PartialEq, Eq)]
struct Tables(BTreeMap<String, Vec<u8>>);

impl RowSource for Tables {
    fn read(&mut self, table: &TableShape, first: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(first * table.row_bytes()).unwrap();
        into.copy_from_slice(&self.0[&table.name][start..start + into.len()]);
        Ok(())
    }
}

impl RowSink for Tables {
    fn begin(&mut self, table: &TableShape) -> io::Result<()> {
        self.0.insert(table.name.clone(), Vec::new());
        Ok(())
    }

    fn write(&mut self, table: &TableShape, first: u64, bytes: &[u8]) -> io::Result<()> {
        let data = self.0.get_mut(&table.name).unwrap();
        assert_eq!(data.len() as u64, first * table.row_bytes());
        data.extend_from_slice(bytes);
        Ok(())
    }
}

fn sample() -> (Vec<TableShape>, Tables) {
    let mut tables = Tables::default();
    let mut shapes = Vec::new();
    for (dtype, rows, width) in [
        (DataType::F32, 1000, 700),
        (DataType::F64, 3, 5),
        (DataType::F16, 7, 1),
        (DataType::Bf16, 2, 2),
        (DataType::I8, 9, 3),
        (DataType::I32, 1, 4),
        (DataType::I64, 0, 4),
        (DataType::U64, 4, 2),
    ] {
        let name = format!("table.{dtype}");
        let shape = TableShape { name: name.clone(), dtype, rows, width, is_list: false };
        let bytes = (0..shape.bytes().unwrap()).map(|n| u8::try_from(n * 7 % 120).unwrap());
        tables.0.insert(name, bytes.collect());
        shapes.push(shape);
    }
    (shapes, tables)
}

#[test]
fn safetensors_round_trip() {
    let (shapes, mut tables) = sample();
    let mut file = Vec::new();
    safetensors::write(&shapes, &mut tables, &mut file).unwrap();
    let mut read = Tables::default();
    assert_eq!(safetensors::read(&mut file.as_slice(), &mut read).unwrap().len(), shapes.len());
    assert_eq!(read, tables);
    assert!(safetensors::read(&mut &file[..file.len() - 1], &mut Tables::default()).is_err());
}

#[test]
fn npy_round_trip() {
    let (shapes, mut tables) = sample();
    for shape in shapes {
        let mut file = Vec::new();
        match npy::write(&shape, &mut tables, &mut file) {
            Ok(()) => {
                let mut read = Tables::default();
                npy::read(&shape.name, &mut file.as_slice(), &mut read).unwrap();
                assert_eq!(read.0[&shape.name], tables.0[&shape.name]);
            }
            Err(error) => {
                assert!(matches!(error, ExportError::NoSuchType { .. }), "{error}");
                assert_eq!(shape.dtype, DataType::Bf16);
            }
        }
    }
}

#[test]
fn nonsense_is_refused() {
    let header = |text: &str| {
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend(text.bytes());
        safetensors::read_header(&mut file.as_slice())
    };
    assert!(header(r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}"#).is_ok());
    assert!(header(r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}}"#).is_err());
    assert!(header(r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[4,20]}}"#).is_err());
    assert!(header(r#"{"a":{"dtype":"F32","shape":[9e18,9e18],"data_offsets":[0,1]}}"#).is_err());
    assert!(header(r#"{"a":{"dtype":"Q4","shape":[2],"data_offsets":[0,1]}}"#).is_err());
    assert!(safetensors::read_header(&mut [255_u8; 8].as_slice()).is_err());
    assert!(npy::read_header("a", &mut b"\x93NUMPY\x01\x00\x05\x00hello".as_slice()).is_err());
}

const SCRIPT: &str = r"
import sys, numpy
folder = sys.argv[1]
a = numpy.load(folder + '/ours.npy')
assert a.shape == (1000, 700) and a.dtype == numpy.float32, (a.shape, a.dtype)
numpy.save(folder + '/theirs.npy', a)
try:
    from safetensors.numpy import load_file, save_file
except ImportError:
    print('without safetensors')
else:
    tables = {k: v for k, v in load_file(folder + '/ours.safetensors').items()}
    assert (tables['table.f32'] == a).all()
    save_file(tables, folder + '/theirs.safetensors')
    print('with safetensors')
";

/// The interpreter named by `WINDLASS_TEST_PYTHON`, else `python3`.
#[test]
fn numpy_reads_and_writes_the_same() {
    let python = std::env::var("WINDLASS_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_numpy = Command::new(&python).args(["-c", "import numpy"]).output();
    if !has_numpy.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: {python} has no numpy; set WINDLASS_TEST_PYTHON to one that has");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (mut shapes, mut tables) = sample();
    npy::write(&shapes[0], &mut tables, &mut File::create(path("ours.npy")).unwrap()).unwrap();
    // numpy has no bfloat16.
    shapes.retain(|shape| shape.dtype != DataType::Bf16);
    let mut file = File::create(path("ours.safetensors")).unwrap();
    safetensors::write(&shapes, &mut tables, &mut file).unwrap();
    let output = Command::new(&python).arg("-c").arg(SCRIPT).arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    println!("{python} with numpy, {said}");
    let mut read = Tables::default();
    npy::read(&shapes[0].name, &mut File::open(path("theirs.npy")).unwrap(), &mut read).unwrap();
    assert_eq!(read.0["table.f32"], tables.0["table.f32"]);
    if said == "with safetensors" {
        check_theirs(&path("theirs.safetensors"), &tables);
    }
}

fn check_theirs(path: &Path, tables: &Tables) {
    let mut read = Tables::default();
    safetensors::read(&mut File::open(path).unwrap(), &mut read).unwrap();
    for (name, bytes) in &read.0 {
        assert_eq!(bytes, &tables.0[name], "{name}");
    }
    assert_eq!(read.0.len(), tables.0.len() - 1);
}

/// Whatever length a header claims is room for so many bytes, up to a bound that it may reach.
#[test]
fn headers_are_as_long_as_the_bound_and_no_longer() {
    let described = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    let header = |length: usize| {
        let mut file = b"\x93NUMPY\x02\x00".to_vec();
        file.extend(u32::try_from(length).unwrap().to_le_bytes());
        file.extend(described.bytes());
        file.resize(12 + length, b' ');
        npy::read_header("a", &mut file.as_slice())
    };
    assert_eq!(header(HEADER_BYTES_MAX).unwrap().rows, 2);
    assert!(header(HEADER_BYTES_MAX + 1).is_err());
}
