//! One history again and again, each time with one fault at one of its moves.
//!
//! ```text
//!   a seed's history without faults ──▶ its moves ──▶ for each move and each fault that can strike there: the history again,
//!                                                     the same up to that move, and however it goes on from there
//! ```
//! Random histories find what takes several faults; this leaves out no place where a single one could strike.

use crate::faults::Fault;
use crate::run::{Findings, Plan, Run, Strike};
use crate::service::Surroundings;

/// Moves of such a history. Runs grow with the square of it.
const MOVES: usize = 600;

/// How such a history is made.
pub fn plan(strike: Option<Strike>) -> Plan {
    Plan { moves: MOVES, trouble: 0, strike, ..Plan::default() }
}

/// The history of a seed without a fault.
pub fn calm(seed: u64, surroundings: &Surroundings) -> Findings {
    Run::play(seed, plan(None), surroundings)
}

/// The history of a seed with one fault.
pub fn play(seed: u64, strike: Strike, surroundings: &Surroundings) -> Findings {
    Run::play(seed, plan(Some(strike)), surroundings)
}

/// Every fault at every move of a seed's history, and what that history itself showed.
pub fn strikes(seed: u64, surroundings: &Surroundings) -> (Findings, Vec<Strike>) {
    let findings = calm(seed, surroundings);
    let moves = findings.moves.iter().enumerate();
    let strikes = moves.flat_map(|(at, kind)| {
        let may = Fault::ALL.iter().map(|(fault, _)| *fault).filter(|fault| fault.strikes(*kind));
        may.map(move |fault| Strike { at, fault })
    });
    let strikes = strikes.collect();
    (findings, strikes)
}
