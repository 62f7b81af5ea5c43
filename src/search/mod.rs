//! Scaling-law guided search at test time, and the scaling law itself as a prediction (SLG, arXiv 2602.01485).
//!
//! Of a budget of N responses, m are sampled from the prompt; the beginnings of the best of them become states; m
//! responses from each state show, through a Gaussian tail fitted to their rewards, where the best of N would be highest;
//! what is left of the budget is sampled there. No training, no gradient, never more than N responses.
//!
//! | module | what it holds |
//! |---|---|
//! | [`schedule`] | N → m and K, the least budget |
//! | [`estimate`] | rewards → tail → predicted best of N |
//! | [`states`] | responses → prefix length, states |
//! | [`run`] | the rounds of the search, over anything that draws responses |
//! | [`policy`] | drawing from a policy on the device and judging by a reward model |
//! | [`session`] | many prompts on the device |
//! | [`line`](mod@line) | one prompt's search as it is stored |
//! | [`store`] | a search on disk, resumed where it was |
//! | [`outcome`] | tables and the comparison with best-of-N |
//! | [`mod@predict`] | best-of-N predicted from m rewards, and tested against what was observed |

pub mod estimate;
pub mod line;
pub mod outcome;
pub mod policy;
pub mod predict;
pub mod run;
pub mod schedule;
pub mod session;
pub mod states;
pub mod store;

pub use estimate::{Predictor, TailEstimate, TailLaw};
pub use run::{Draw, Node, Request, Response, Searched, Settings, search};
pub use schedule::Schedule;
pub use states::{Chosen, State, choose_states, prefix_length};
