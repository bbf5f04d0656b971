//! Circles among the files of a crate.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{FileName, Uses};

/// Finds the sets of files that use each other, directly or through others. The sets and the files
/// in each set are sorted.
pub(super) fn circles(uses: &Uses) -> Vec<Vec<FileName>> {
    let mut search = Search::default();
    for (from, to) in uses.keys() {
        search.used.entry(from).or_default().insert(to);
    }
    let files: Vec<_> = search.used.keys().copied().collect();
    for file in files {
        if !search.numbers.contains_key(file) {
            search.visit(file);
        }
    }
    search.circles.sort();
    search.circles
}

/// Lists the uses that form a circle, one line each.
pub(super) fn edges<'a>(uses: &'a Uses, circle: &'a [FileName]) -> impl Iterator<Item = String> + 'a {
    let within = |file: &FileName| circle.contains(file);
    uses.iter().filter(move |((from, to), _)| within(from) && within(to)).map(|((from, to), names)| {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        format!("{from} uses {} of {to}", names.join(", "))
    })
}

/// Tarjan's search for strongly connected components. Its depth is at most the number of files.
#[derive(Default)]
struct Search<'a> {
    used: BTreeMap<&'a str, BTreeSet<&'a str>>,
    numbers: BTreeMap<&'a str, usize>,
    stack: Vec<&'a str>,
    circles: Vec<Vec<FileName>>,
}

impl<'a> Search<'a> {
    /// Visits a file and all files that it uses. Returns the lowest number that the search reaches.
    fn visit(&mut self, file: &'a str) -> usize {
        let number = self.numbers.len();
        self.numbers.insert(file, number);
        self.stack.push(file);
        let used: Vec<_> = self.used.get(file).into_iter().flatten().copied().collect();
        let mut lowest = number;
        for other in used {
            let reached = match self.numbers.get(other) {
                None => Some(self.visit(other)),
                Some(number) => self.stack.contains(&other).then_some(*number),
            };
            lowest = reached.map_or(lowest, |reached| lowest.min(reached));
        }
        if lowest == number {
            let begin = self.stack.iter().rposition(|on| *on == file).unwrap_or_default();
            let mut component: Vec<_> = self.stack.split_off(begin).into_iter().map(str::to_owned).collect();
            if component.len() > 1 {
                component.sort();
                self.circles.push(component);
            }
        }
        lowest
    }
}
