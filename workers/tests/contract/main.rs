//! One contract suite, run on every adapter against a simulator that speaks the provider's own API, and for what no
//! simulator does, against servers that answer byte by byte as a test says.
//!
//! The simulator keeps its own bill, so what an adapter says was used can be held against it.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

mod app;
mod bed;
mod raw;
mod suite;
mod world;

mod contract_check;
mod contract_golem;
mod contract_modal_app;
mod contract_modal_app_containers;
mod contract_modal_openai;
mod contract_modal_spawn;
mod contract_modal_wait;
mod contract_modal_warm;
mod contract_noop;
mod contract_openai;
mod contract_openai_dialects;
mod contract_openai_labels;
mod contract_openai_servers;
mod contract_replicate;
mod contract_runpod_run;
mod contract_runpod_runsync;
