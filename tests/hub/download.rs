//! Bytes on their way: redirects, tokens, interruptions, hosts that change their mind, hashes, locks.

use super::mirror::{Request, Response, etag, proxy, sha256};
use super::{COMMIT, NEXT_COMMIT, Place, model_files, names, noise};
use deltamem::hub::{Event, Token};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const REPO: &str = "ada/model";

/// A repository with one GGUF file of 300,000 bytes.
fn one_file(place: &Place, seed: u64) -> Vec<u8> {
    let bytes = noise(300_000, seed);
    place.mirror.put(REPO, COMMIT, &[("m.gguf", bytes.clone())]);
    bytes
}

/// Calls `change` for the first `n` requests for bytes of large files.
fn first_bytes(
    place: &Place,
    n: usize,
    change: impl Fn(usize, &Request, &mut Response) + Send + Sync + 'static,
) {
    let asked = AtomicUsize::new(0);
    place.mirror.meddle(move |request, response| {
        if request.is_bytes() {
            let i = asked.fetch_add(1, Ordering::SeqCst);
            if i < n {
                change(i, request, response);
            }
        }
    });
}

fn pulled_bytes(place: &Place) -> Vec<u8> {
    let pulled = place.pull(REPO).expect("pulled");
    std::fs::read(&pulled[0].path).expect("the file")
}

fn ranges(place: &Place) -> Vec<Option<String>> {
    let requests = place.mirror.requests();
    let bytes = requests.iter().filter(|request| request.is_bytes());
    bytes.map(|request| request.header("range").map(str::to_string)).collect()
}

#[test]
fn the_token_never_leaves_the_hub() {
    let mut place = Place::new();
    place.settings.token = Token::new("hf_secret");
    let bytes = one_file(&place, 1);
    // the host of large files sends its clients back to the hub: no reason to trust it
    let hub = place.mirror.endpoint().to_string();
    let back = AtomicUsize::new(0);
    place.mirror.meddle(move |request, response| {
        if request.is_bytes() && back.fetch_add(1, Ordering::SeqCst) == 0 {
            let location = format!("{hub}/back?x=1");
            response.replace(302, &[("location", &location)]);
        } else if request.path.starts_with("/back") {
            response.replace(503, &[]);
        }
    });
    assert_eq!(pulled_bytes(&place), bytes);
    let requests = place.mirror.requests();
    let has_token = |request: &&Request| request.header("authorization").is_some();
    let (hub, files): (Vec<&Request>, Vec<&Request>) = requests.iter().partition(|r| r.is_hub);
    assert!(files.len() >= 2 && !files.iter().any(has_token), "{files:?}");
    let (back, own): (Vec<&Request>, Vec<&Request>) =
        hub.into_iter().partition(|request| request.path.starts_with("/back"));
    assert!(back.len() == 1 && !back.iter().any(has_token), "{back:?}");
    assert!(own.len() >= 3 && own.iter().all(has_token), "{own:?}");
    assert_eq!(own[0].header("authorization"), Some("Bearer hf_secret"));
}

#[test]
fn a_connection_that_ends_early_goes_on_inside_the_file() {
    let place = Place::new();
    let bytes = one_file(&place, 2);
    first_bytes(&place, 2, |i, _, response| response.cut = Some(70_000 + i));
    let mut seen = Vec::new();
    place
        .pull_with(REPO, &mut |event| {
            if let Event::Bytes(n) = event {
                seen.push(n);
            }
        })
        .expect("pulled");
    assert_eq!(pulled_bytes(&place), bytes);
    let expected = [None, Some("bytes=70000-"), Some("bytes=140001-")];
    assert_eq!(ranges(&place), expected.map(|range| range.map(str::to_string)));
    assert!(seen.is_sorted() && seen.last() == Some(&300_000), "{seen:?}");
}

#[test]
fn an_interrupted_pull_goes_on_next_time() {
    let mut place = Place::new();
    let bytes = one_file(&place, 3);
    place.settings.patience.attempts = 1;
    first_bytes(&place, 1, |_, _, response| response.cut = Some(123_456));
    let (code, message) = place.failure(REPO);
    assert_eq!(code, "network", "{message}");
    let blobs = place.repo(REPO).join("blobs");
    assert_eq!(names(&blobs), [format!("{}.incomplete", sha256(&bytes))]);
    assert!(!message.contains("Signature"), "{message}");
    place.mirror.requests();
    assert_eq!(pulled_bytes(&place), bytes);
    assert_eq!(ranges(&place), [Some("bytes=123456-".to_string())]);
    assert_eq!(names(&blobs), [sha256(&bytes)]);
}

#[test]
fn a_host_that_knows_no_ranges_sends_it_all_again() {
    let place = Place::new();
    let bytes = one_file(&place, 4);
    let all = bytes.clone();
    first_bytes(&place, 2, move |i, _, response| match i {
        0 => response.cut = Some(99_000),
        _ => {
            response.replace(200, &[("etag", "\"other\"")]);
            response.body = all.clone();
        }
    });
    assert_eq!(pulled_bytes(&place), bytes);
    assert_eq!(ranges(&place).len(), 2);
}

#[test]
fn a_host_without_the_rest_starts_over() {
    let place = Place::new();
    let bytes = one_file(&place, 5);
    first_bytes(&place, 2, |i, _, response| match i {
        0 => response.cut = Some(99_000),
        _ => response.replace(416, &[("content-range", "bytes */300000")]),
    });
    assert_eq!(pulled_bytes(&place), bytes);
    assert_eq!(ranges(&place), [None, Some("bytes=99000-".to_string()), None]);
}

#[test]
fn another_range_than_asked_for_is_not_taken() {
    let place = Place::new();
    let bytes = one_file(&place, 6);
    first_bytes(&place, 2, |i, _, response| match i {
        0 => response.cut = Some(99_000),
        _ => response.set("content-range", "bytes 5-299999/300000"),
    });
    assert_eq!(pulled_bytes(&place), bytes);
}

#[test]
fn limits_are_waited_for_and_long_ones_are_told() {
    let place = Place::new();
    let bytes = one_file(&place, 7);
    first_bytes(&place, 1, |_, _, response| response.replace(429, &[("retry-after", "1")]));
    let begin = Instant::now();
    let mut waits = Vec::new();
    place
        .pull_with(REPO, &mut |event| {
            if let Event::Waiting { time, .. } = event {
                waits.push(time);
            }
        })
        .expect("pulled");
    assert_eq!(waits, [Duration::from_secs(1)]);
    assert!(begin.elapsed() >= Duration::from_secs(1));
    assert_eq!(pulled_bytes(&place), bytes);

    place.mirror.meddle(|_, response| response.replace(429, &[("retry-after", "3600")]));
    let begin = Instant::now();
    let (code, message) = place.failure(REPO);
    assert_eq!(code, "rate_limited");
    assert!(message.contains("3600 s") && begin.elapsed() < Duration::from_secs(1), "{message}");
    place.mirror.meddle(|_, response| response.replace(429, &[]));
    assert_eq!(place.failure(REPO).0, "rate_limited");
}

#[test]
fn errors_of_the_host_are_asked_again_but_not_for_ever() {
    let place = Place::new();
    let bytes = one_file(&place, 8);
    let count = AtomicUsize::new(0);
    place.mirror.meddle(move |_, response| {
        // one of three answers, also those about the repository
        if count.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) {
            response.replace(503, &[]);
        }
    });
    assert_eq!(pulled_bytes(&place), bytes);
    place.mirror.requests();
    place.mirror.meddle(|_, response| response.replace(500, &[]));
    let (code, message) = place.failure(REPO);
    assert_eq!((code, place.mirror.requests().len()), ("network", 4), "{message}");
    assert!(message.contains("500") && message.contains("4 attempts"), "{message}");
}

#[test]
fn a_silent_host_is_given_up() {
    let mut place = Place::new();
    one_file(&place, 9);
    place.settings.patience.silence = Duration::from_millis(200);
    place.settings.patience.attempts = 2;
    place.mirror.meddle(|request, _| {
        if request.is_bytes() {
            std::thread::sleep(Duration::from_secs(5));
        }
    });
    let begin = Instant::now();
    assert_eq!(place.failure(REPO).0, "network");
    assert!(begin.elapsed() < Duration::from_secs(4));
}

#[test]
fn wrong_bytes_are_deleted_and_nothing_else() {
    let place = Place::new();
    place.mirror.put(REPO, COMMIT, &model_files(10));
    place.mirror.meddle(|request, response| {
        if request.is_bytes() && response.body.len() == 300_000 {
            response.body[150_000] ^= 1;
        }
    });
    let (code, message) = place.failure(REPO);
    assert_eq!(code, "wrong_hash", "{message}");
    assert!(message.contains("ada/model:model.safetensors"), "{message}");
    let snapshot = place.repo(REPO).join("snapshots").join(COMMIT);
    assert_eq!(names(&snapshot), ["config.json", "tokenizer.json"]);
    assert_eq!(names(&place.repo(REPO).join("blobs")).len(), 2);
    assert!(names(&place.repo(REPO).join("refs")).is_empty(), "a branch has only whole models");
    place.mirror.behave();
    place.mirror.requests();
    place.pull(REPO).expect("pulled");
    assert_eq!(ranges(&place), [None], "only what was wrong is fetched again");
}

#[test]
fn wrong_bytes_of_another_day_get_a_second_chance() {
    let place = Place::new();
    let bytes = one_file(&place, 11);
    let blobs = place.repo(REPO).join("blobs");
    std::fs::create_dir_all(&blobs).expect("a folder");
    let incomplete = blobs.join(format!("{}.incomplete", sha256(&bytes)));
    std::fs::write(&incomplete, vec![7; 100_000]).expect("a file");
    assert_eq!(pulled_bytes(&place), bytes);
    assert_eq!(ranges(&place), [Some("bytes=100000-".to_string()), None]);
    // longer than the file can be, or as long
    for len in [300_000, 300_001] {
        std::fs::remove_dir_all(place.repo(REPO)).expect("removed");
        std::fs::create_dir_all(&blobs).expect("a folder");
        std::fs::write(&incomplete, vec![7; len]).expect("a file");
        assert_eq!(pulled_bytes(&place), bytes, "{len}");
    }
}

#[test]
fn a_file_that_changes_on_the_hub_starts_over_as_the_new_one() {
    let place = Place::new();
    let old = one_file(&place, 12);
    let new = noise(280_000, 13);
    first_bytes(&place, 1, |_, _, response| response.cut = Some(99_000));
    let mirror = &place.mirror;
    let mut is_changed = false;
    let pulled = place
        .pull_with(REPO, &mut |event| {
            // between the two attempts
            if matches!(event, Event::Waiting { .. }) && !is_changed {
                mirror.put(REPO, COMMIT, &[("m.gguf", new.clone())]);
                is_changed = true;
            }
        })
        .expect("pulled");
    assert!(is_changed);
    assert_eq!(std::fs::read(&pulled[0].path).expect("the file"), new);
    let blobs = names(&place.repo(REPO).join("blobs"));
    let mut expected = [sha256(&new), format!("{}.incomplete", sha256(&old))];
    expected.sort();
    assert_eq!(blobs, expected);
}

#[test]
fn a_page_in_between_costs_nothing() {
    let place = Place::new();
    let bytes = one_file(&place, 24);
    first_bytes(&place, 2, |i, _, response| match i {
        0 => response.cut = Some(99_000),
        _ => {
            response.replace(200, &[]);
            response.body = b"<html>please log in to this network</html>".to_vec();
        }
    });
    assert_eq!(pulled_bytes(&place), bytes);
    let rest = Some("bytes=99000-".to_string());
    assert_eq!(ranges(&place), [None, rest.clone(), rest]);
}

#[test]
fn a_host_that_never_agrees_with_itself_is_given_up() {
    let place = Place::new();
    one_file(&place, 25);
    let n = AtomicUsize::new(0);
    place.mirror.meddle(move |request, response| {
        if request.is_bytes() {
            let n = n.fetch_add(1, Ordering::SeqCst);
            response.set("etag", &format!("\"{n}\""));
            response.cut = Some(99_000);
        }
    });
    assert_eq!(place.failure(REPO).0, "network");
}

#[test]
fn another_etag_where_the_bytes_are_starts_over() {
    let place = Place::new();
    let bytes = one_file(&place, 14);
    first_bytes(&place, 2, |i, _, response| match i {
        0 => response.cut = Some(99_000),
        _ => response.set("etag", "\"moved\""),
    });
    assert_eq!(pulled_bytes(&place), bytes);
    assert_eq!(ranges(&place), [None, Some("bytes=99000-".to_string()), None]);
}

#[test]
fn who_may_not_read_and_what_is_not_there_is_told() {
    let mut place = Place::new();
    one_file(&place, 15);
    let (code, message) = place.failure("ada/other");
    assert_eq!(code, "not_found");
    assert!(message.contains("there is no such repository"), "{message}");
    let (code, message) = place.failure(&format!("{REPO}@no-such-branch"));
    assert!(code == "not_found" && message.contains("revision"), "{message}");
    let (code, message) = place.failure(&format!("{REPO}:no-such-file"));
    assert!(code == "not_found" && message.contains("m.gguf"), "{message}");
    const GATED: [(&str, &str); 1] = [("x-error-code", "GatedRepo")];
    for (status, headers, advice) in
        [(401, &[][..], "HF_TOKEN"), (403, &GATED[..], "accept its terms")]
    {
        place.mirror.meddle(move |_, response| response.replace(status, headers));
        let (code, message) = place.failure(REPO);
        assert!(code == "access_denied" && message.contains(advice), "{message}");
    }
    // gated repositories show their list of files
    place.mirror.meddle(move |request, response| {
        if request.method == "HEAD" {
            response.replace(403, &GATED);
        }
    });
    assert_eq!(place.failure(REPO).0, "access_denied");
    place.settings.token = Token::new("hf_wrong");
    place.mirror.meddle(|_, response| response.replace(401, &[]));
    let (_, message) = place.failure(REPO);
    assert!(
        message.contains("the token may read it") && !message.contains("hf_wrong"),
        "{message}"
    );
}

#[test]
fn what_is_no_hub_is_no_hub() {
    let place = Place::new();
    one_file(&place, 16);
    place.mirror.meddle(|_, response| {
        response.replace(200, &[("content-type", "text/html")]);
        response.body = b"<html>please log in to this network</html>".to_vec();
    });
    let (code, message) = place.failure(REPO);
    assert!(code == "network" && message.contains("not that of a hub"), "{message}");
    place.mirror.meddle(|request, response| {
        if request.method == "HEAD" {
            response.replace(200, &[]);
        }
    });
    let (code, message) = place.failure(REPO);
    assert!(code == "network" && message.contains("no ETag"), "{message}");
    place.mirror.meddle(|request, response| {
        if request.is_hub {
            response.replace(302, &[("location", &request.path)]);
        }
    });
    let (code, message) = place.failure(REPO);
    assert!(code == "network" && message.contains("redirects"), "{message}");
}

#[test]
fn no_name_leads_out_of_the_cache() {
    let place = Place::new();
    for name in ["../../escaped", "/escaped", "a/../../../escaped", "..\\escaped"] {
        place.mirror.put(REPO, COMMIT, &[("m.gguf", noise(100, 17)), (name, b"x".to_vec())]);
        let (code, message) = place.failure(REPO);
        assert_eq!(code, "refused", "{message}");
    }
    one_file(&place, 17);
    for bad in ["\"../../../escaped\"", "\"a/b\"", "\"\"", "\"x.incomplete\""] {
        place.mirror.meddle(move |request, response| {
            if request.method == "HEAD" {
                response.set("x-linked-etag", bad);
            }
        });
        assert!(["refused", "network"].contains(&place.failure(REPO).0), "{bad}");
    }
    place.mirror.meddle(|request, response| {
        if request.path.starts_with("/api/") {
            let text = String::from_utf8_lossy(&response.body).replace(COMMIT, "../../escaped");
            response.body = text.into_bytes();
        }
    });
    assert_eq!(place.failure(REPO).0, "network");
    assert!(names(place.root()).is_empty(), "nothing was written");
}

#[test]
fn a_full_disk_is_told_before_the_download() {
    let place = Place::new();
    one_file(&place, 18);
    place.mirror.meddle(|request, response| {
        if request.method == "HEAD" {
            response.set("x-linked-size", "4611686018427387904");
        }
    });
    let (code, message) = place.failure(REPO);
    assert_eq!(code, "no_space");
    assert!(message.contains("4611686018427387904 more bytes are needed"), "{message}");
    assert!(ranges(&place).is_empty());
}

#[test]
fn two_pulls_at_once_fetch_once() {
    let place = Place::new();
    let bytes = one_file(&place, 19);
    place.mirror.meddle(|request, _| {
        if request.is_bytes() {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let waited = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let pulled = place.pull_with(REPO, &mut |event| {
                    if let Event::Waiting { time: Duration::ZERO, .. } = event {
                        waited.fetch_add(1, Ordering::SeqCst);
                    }
                });
                let path = &pulled.expect("pulled")[0].path;
                assert_eq!(std::fs::read(path).expect("the file"), bytes);
            });
        }
    });
    assert_eq!((ranges(&place).len(), waited.load(Ordering::SeqCst)), (1, 2));
}

#[test]
fn proxies_are_used_and_left_out() {
    let (address, asked) = proxy();
    let via = Place::with(&[("HTTP_PROXY", &address)]);
    let bytes = one_file(&via, 20);
    assert_eq!(pulled_bytes(&via), bytes);
    let hub = via.mirror.endpoint().trim_start_matches("http://").to_string();
    let seen = asked.lock().unwrap().clone();
    assert!(seen.contains(&format!("CONNECT {hub}")) && seen.len() >= 2, "{seen:?}");
    asked.lock().unwrap().clear();
    let direct = Place::with(&[("HTTP_PROXY", &address), ("NO_PROXY", "localhost, 127.0.0.1")]);
    let bytes = one_file(&direct, 21);
    assert_eq!(pulled_bytes(&direct), bytes);
    assert!(asked.lock().unwrap().is_empty());
}

#[test]
fn a_newer_commit_fetches_only_what_changed() {
    let place = Place::new();
    let mut files = model_files(22);
    place.mirror.put(REPO, COMMIT, &files);
    place.pull(REPO).expect("pulled");
    files[2].1 = noise(200_000, 23);
    place.mirror.put(REPO, NEXT_COMMIT, &files);
    place.mirror.requests();
    let pulled = place.pull(REPO).expect("pulled");
    let was_here: Vec<bool> = pulled[0].files.iter().map(|file| file.was_here).collect();
    assert_eq!((was_here.as_slice(), ranges(&place).len()), (&[true, true, false][..], 1));
    let main = std::fs::read_to_string(place.repo(REPO).join("refs/main")).expect("a ref");
    assert_eq!(main, NEXT_COMMIT);
    assert_eq!(names(&place.repo(REPO).join("blobs")).len(), 4);
    assert!(names(&place.repo(REPO).join("blobs")).contains(&etag(b"{}")));
}
