use super::super::header::Header;
use super::*;
use crate::weights::bytes::Blob;

fn plan(last_key: u32) -> Plan {
    let metadata = [
        ("general.architecture", MetaValue::Text("smollm3".into())),
        ("a.number", MetaValue::Number(0.5)),
        ("a.flag", MetaValue::Bool(true)),
        ("some.texts", MetaValue::Texts(vec!["a".into(), "ö".into(), String::new()])),
        ("some.integers", MetaValue::Integers(vec![-1, 7])),
        ("a.count", MetaValue::Count(last_key)),
    ];
    let metadata: Vec<_> = metadata.into_iter().map(|(key, value)| (key.into(), value)).collect();
    let tensors = vec![
        ("one".into(), GgmlType::F32, vec![3]),
        ("two".into(), GgmlType::Q4_0, vec![5, 64]),
        ("three".into(), GgmlType::F16, vec![2, 3]),
    ];
    Plan::new(&metadata, tensors).unwrap()
}

/// Writes rows from where the file is, all or the first `n`.
fn write_rows(writer: &mut GgufWriter, plan: &Plan, n: usize) {
    let mut rows = Vec::new();
    for (t, tensor) in plan.tensors().iter().enumerate() {
        for row in 0..tensor.n_rows() {
            let bytes = vec![(16 * t + row + 1) as u8; tensor.row_bytes()];
            rows.push((tensor.offset + (row * tensor.row_bytes()) as u64, bytes));
        }
    }
    rows.retain(|(offset, _)| *offset >= writer.position());
    for (offset, bytes) in rows.iter().take(n) {
        writer.write(*offset, bytes).unwrap();
    }
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let plan = plan(9);
    let mut writer = GgufWriter::open(&path, &plan).unwrap();
    write_rows(&mut writer, &plan, usize::MAX);
    assert!(!path.exists());
    writer.finish().unwrap();
    assert!(!folder.path().join("a.gguf.part").exists());
    let blob = Blob::open(&path).unwrap();
    assert_eq!(blob.len(), plan.size_bytes());
    let header = Header::read(&blob).unwrap();
    assert_eq!(header.version, 3);
    assert_eq!(header.metadata.text("general.architecture").unwrap(), Some("smollm3"));
    assert_eq!(header.metadata.count("a.count").unwrap(), Some(9));
    assert_eq!(header.metadata.number("a.number").unwrap(), Some(0.5));
    assert_eq!(header.metadata.integers("some.integers").unwrap(), Some(&[-1, 7][..]));
    let texts = header.metadata.texts("some.texts").unwrap().unwrap();
    assert_eq!(texts.iter().collect::<Vec<_>>(), ["a", "ö", ""]);
    for (found, planned) in header.tensors.iter().zip(plan.tensors()) {
        assert_eq!(
            (&found.name, found.ty, &found.shape),
            (&planned.name, planned.ty, &planned.shape)
        );
        assert_eq!((found.offset, found.size_bytes), (planned.offset, planned.size_bytes));
        assert_eq!(found.offset % ALIGNMENT, 0);
    }
    let last_row = blob.read_vec(plan.tensors()[1].offset + 4 * 36, 36).unwrap();
    assert_eq!(last_row, [16 + 4 + 1; 36]);
}

#[test]
fn an_interrupted_file_is_continued_and_ends_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, broken) = (folder.path().join("whole.gguf"), folder.path().join("broken.gguf"));
    let plan = plan(1);
    let mut writer = GgufWriter::open(&whole, &plan).unwrap();
    write_rows(&mut writer, &plan, usize::MAX);
    writer.finish().unwrap();
    let expected = std::fs::read(&whole).unwrap();
    for n in 0..8 {
        let mut writer = GgufWriter::open(&broken, &plan).unwrap();
        assert_eq!(writer.position(), plan.header().len() as u64);
        writer.sync_bytes = 40; // more than a row, so that what is safe lags behind
        write_rows(&mut writer, &plan, n);
        // an error leaves all that is there, a power cut only what was safe
        let is_cut = n % 2 == 0;
        let kept = if is_cut { writer.safe } else { writer.position() };
        writer.safe = writer.position();
        if !is_cut {
            writer.safe = 0;
        }
        drop(writer);
        // it is no GGUF file yet
        let part = folder.path().join("broken.gguf.part");
        assert!(Header::read(&Blob::open(&part).unwrap()).is_err());
        let mut writer = GgufWriter::open(&broken, &plan).unwrap();
        assert_eq!(writer.position(), kept);
        write_rows(&mut writer, &plan, usize::MAX);
        writer.finish().unwrap();
        assert_eq!(std::fs::read(&broken).unwrap(), expected, "{n}");
    }
}

#[test]
fn another_plan_starts_over_and_a_second_writer_waits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.gguf");
    let (first, second) = (plan(1), plan(2));
    let mut writer = GgufWriter::open(&path, &first).unwrap();
    writer.sync_bytes = 1;
    write_rows(&mut writer, &first, 4);
    assert_eq!(GgufWriter::open(&path, &first).err().map(|e| e.code()), Some("locked"));
    drop(writer);
    let writer = GgufWriter::open(&path, &second).unwrap();
    assert_eq!(writer.position(), second.header().len() as u64);
    drop(writer);
    // a mark that points nowhere is not believed
    let part = folder.path().join("a.gguf.part");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[..8].fill(0xff);
    std::fs::write(&part, bytes).unwrap();
    let writer = GgufWriter::open(&path, &second).unwrap();
    assert_eq!(writer.position(), second.header().len() as u64);
    assert_eq!(GgufWriter::open(folder.path(), &second).err().map(|e| e.code()), Some("io"));
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let refuse = |name: &str, ty, shape: &[usize]| {
        let tensors = vec![("a".into(), GgmlType::F32, vec![1]), (name.into(), ty, shape.to_vec())];
        assert_eq!(Plan::new(&[], tensors).unwrap_err().code(), "format", "{name} {shape:?}");
    };
    refuse("b", GgmlType::Q4_K, &[2, 128]);
    refuse("b", GgmlType::F32, &[]);
    refuse("b", GgmlType::F32, &[0, 3]);
    refuse("b", GgmlType::F32, &[1; 5]);
    refuse("b", GgmlType::F32, &[1 << 40, 1 << 40]);
    refuse("a", GgmlType::F32, &[1]);
    refuse(&"x".repeat(64), GgmlType::F32, &[1]);
}
