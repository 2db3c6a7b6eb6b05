//! What a benchmark asks: contexts with questions, and the ways in which a question can be asked.
//! Owns how much of a context is shown; reading data files and wording questions is each benchmark's.

use serde::{Deserialize, Serialize};

/// A context with everything that is asked about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Of the data file; unique in it.
    pub id: String,
    pub context: Context,
    pub questions: Vec<Question>,
}

/// A text in pieces that are shown whole or not at all.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Context {
    /// Stands in front of what is shown; not written into the memory.
    pub introduction: String,
    pub sections: Vec<Section>,
    /// Between two sections.
    pub separator: &'static str,
}

/// A session, a paragraph, a chunk.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Section {
    /// Shown and written in front of whatever is left of the section.
    pub header: String,
    /// Turns, sentences or a whole paragraph, with their line ends.
    pub pieces: Vec<String>,
}

/// A question with the answers that count.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Unique in the data file.
    pub id: String,
    /// What the report lists it under.
    pub category: String,
    /// Several categories that the report sums up, if the benchmark has such groups.
    pub group: Option<String>,
    /// As the data file has it.
    pub text: String,
    /// As the model is asked.
    pub prompt: String,
    pub answers: Vec<String>,
    /// What (a) and (b) stand for in the prompt.
    pub choices: Option<[String; 2]>,
    /// Longest reply that the protocol asks for, in tokens.
    pub max_new_tokens: usize,
}

/// What a model has when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The memory, and the end of the context before the question.
    On,
    /// Nothing.
    Off,
    /// The context before the question, as much of it as fits; the memory is empty and stays so.
    Full,
    /// The memory, and nothing else.
    State,
    /// The context before the question as in `Full`, and the memory is written while it is read:
    /// what the δ-mem paper's tables compare with the bare backbone.
    Replay,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 5] = [Mode::On, Mode::Off, Mode::Full, Mode::State, Mode::Replay];

    /// As the command line and the reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::On => "on",
            Mode::Off => "off",
            Mode::Full => "full",
            Mode::State => "state",
            Mode::Replay => "replay",
        }
    }

    /// The mode of this name.
    pub fn from_name(name: &str) -> Option<Mode> {
        Mode::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Whether the context is written into the memory before questions are asked.
    pub fn has_memory(self) -> bool {
        matches!(self, Mode::On | Mode::State)
    }

    /// Whether it needs a model with an adapter.
    pub fn needs_adapter(self) -> bool {
        self.has_memory() || self == Mode::Replay
    }
}

impl Context {
    /// Turns, sentences or paragraphs.
    pub fn n_pieces(&self) -> usize {
        self.sections.iter().map(|section| section.pieces.len()).sum()
    }

    /// The text without its first `n_left_out` pieces; empty if none is left. A section keeps its
    /// header as long as it has a piece.
    pub fn text(&self, n_left_out: usize) -> String {
        let mut left_out = n_left_out;
        let mut sections = Vec::new();
        for section in &self.sections {
            let n = left_out.min(section.pieces.len());
            left_out -= n;
            if n < section.pieces.len() {
                sections.push(format!("{}{}", section.header, section.pieces[n..].concat()));
            }
        }
        match sections.is_empty() {
            true => String::new(),
            false => format!("{}{}", self.introduction, sections.join(self.separator)),
        }
    }
}

/// The fewest pieces at the beginning that have to go so that `fits` says yes, given about how much
/// each takes and how much is there; all of them if nothing fits.
///
/// # Errors
/// What `fits` gives.
pub fn fewest_left_out<E>(
    sizes: &[usize],
    room: usize,
    mut fits: impl FnMut(usize) -> Result<bool, E>,
) -> Result<usize, E> {
    let mut total: usize = sizes.iter().sum();
    let mut n_left_out = 0;
    // sizes are of single pieces, so their sum is near but not exact: begin a little early
    while n_left_out < sizes.len() && total > room + room / 16 + 16 {
        total -= sizes[n_left_out];
        n_left_out += 1;
    }
    while n_left_out < sizes.len() && !fits(n_left_out)? {
        n_left_out += 1;
    }
    Ok(n_left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context {
        let section = |header: &str, pieces: &[&str]| Section {
            header: header.into(),
            pieces: pieces.iter().map(ToString::to_string).collect(),
        };
        Context {
            introduction: "I ".into(),
            sections: vec![section("A:", &["1", "2"]), section("B:", &[]), section("C:", &["3"])],
            separator: "|",
        }
    }

    #[test]
    fn a_context_is_cut_from_the_front() {
        let context = context();
        assert_eq!(context.n_pieces(), 3);
        let shown: Vec<String> = (0..=4).map(|n| context.text(n)).collect();
        assert_eq!(shown, ["I A:12|C:3", "I A:2|C:3", "I C:3", "", ""]);
    }

    #[test]
    fn the_fewest_pieces_are_left_out() {
        // exact sizes: of 30 + 20 + 30 the last two fit into 50
        let sizes = [30, 20, 30];
        let exact =
            |room: usize| move |n: usize| Ok::<bool, ()>(sizes[n..].iter().sum::<usize>() <= room);
        assert_eq!(fewest_left_out(&sizes, 80, exact(80)), Ok(0));
        assert_eq!(fewest_left_out(&sizes, 79, exact(79)), Ok(1));
        assert_eq!(fewest_left_out(&sizes, 50, exact(50)), Ok(1));
        assert_eq!(fewest_left_out(&sizes, 49, exact(49)), Ok(2));
        assert_eq!(fewest_left_out(&sizes, 0, exact(0)), Ok(3));
        assert_eq!(fewest_left_out(&[], 0, |_| Ok::<bool, ()>(false)), Ok(0));
        assert_eq!(fewest_left_out(&sizes, 80, |_| Err("no")), Err("no"));
    }

    #[test]
    fn modes_have_names() {
        for mode in Mode::ALL {
            assert_eq!(Mode::from_name(mode.name()), Some(mode));
        }
        assert_eq!(Mode::from_name("ON"), None);
    }
}
