//! What happens by itself as time goes by: proposals, approvals, batches, debit notes, and providers that lose patience.

use serde_json::{Value, json};

use super::{
    config::{GolemConfig, GolemNode, Manner},
    state::{Activity, Agreement, Bill, Note, Proposal, Stance, State, Word, rfc3339},
};
use crate::clock::micros;

/// Brings everything up to `now`. True if something happened.
pub(super) fn tick(state: &mut State, config: &GolemConfig, now: u64) -> bool {
    // One by one: each of them must run.
    let happened = [
        allocations(state, now),
        demands(state, config, now),
        drafts(state, config, now),
        agreements(state, config, now),
        batches(state, config, now),
        notes(state, config, now),
        impatience(state, config, now),
        invoices(state, config, now),
    ];
    happened.contains(&true)
}

fn allocations(state: &mut State, now: u64) -> bool {
    let mut happened = false;
    for allocation in state.allocations.values_mut() {
        if !allocation.released && allocation.timeout_us.is_some_and(|at| at <= now) {
            (allocation.released, happened) = (true, true);
        }
    }
    happened
}

fn proposal_event(
    state: &mut State,
    config: &GolemConfig,
    proposal: &str,
    previous: Option<&str>,
    now: u64,
) -> Value {
    let at = rfc3339(state.stamp(now));
    let one = &state.proposals[proposal];
    let node = &config.nodes[one.node];
    let word = if one.stance == Stance::Draft { "Draft" } else { "Initial" };
    let mut properties = node.properties();
    if word == "Draft" {
        // A provider takes over what was negotiable.
        for (key, value) in one.ours["properties"].as_object().into_iter().flatten() {
            if key.ends_with('?') {
                properties.insert(key.clone(), value.clone());
            }
        }
    }
    let mut proposal = json!({
        "proposalId": proposal,
        "issuerId": node.id,
        "state": word,
        "properties": properties,
        "constraints": "(&(golem.srv.comp.expiration>0))",
        "timestamp": at,
    });
    if let Some(previous) = previous {
        proposal["prevProposalId"] = json!(previous);
    }
    json!({ "eventType": "ProposalEvent", "eventDate": at, "proposal": proposal })
}

fn demands(state: &mut State, config: &GolemConfig, now: u64) -> bool {
    let before = state.demands.len();
    state.demands.retain(|_, demand| demand.ends_us > now);
    let mut happened = state.demands.len() != before;
    if state.switches.no_offers {
        return happened;
    }
    let busy: Vec<usize> =
        state.agreements.values().filter(|one| one.word == Word::Approved).map(|one| one.node).collect();
    let ids: Vec<String> = state.demands.keys().cloned().collect();
    for id in ids {
        let demand = &state.demands[&id];
        let constraints = demand.body["constraints"].as_str().unwrap_or_default();
        let free = |(place, node): &(usize, &GolemNode)| {
            !demand.offered.contains(place)
                && !busy.contains(place)
                && constraints.contains(&format!("(golem.runtime.name={})", node.runtime))
        };
        let Some((node, _)) = config.nodes.iter().enumerate().find(free).filter(|_| demand.next_us <= now)
        else {
            continue;
        };
        let proposal = format!("R-{}", state.id(64));
        let one = Proposal { demand: id.clone(), node, stance: Stance::Initial, ours: Value::Null };
        state.proposals.insert(proposal.clone(), one);
        let event = proposal_event(state, config, &proposal, None, now);
        let demand = state.demands.get_mut(&id).expect("it was there");
        demand.offered.insert(node);
        demand.next_us = now + micros(config.proposal_every);
        demand.events.push_back(event);
        happened = true;
    }
    happened
}

/// Providers answer our counter-proposals.
fn drafts(state: &mut State, config: &GolemConfig, now: u64) -> bool {
    let due = |stance: Stance| matches!(stance, Stance::Countered(at) if at <= now);
    let ids: Vec<String> =
        state.proposals.iter().filter(|(_, one)| due(one.stance)).map(|(id, _)| id.clone()).collect();
    for id in &ids {
        let ours = state.proposals.get_mut(id).expect("it was there");
        ours.stance = Stance::Used;
        let draft = Proposal {
            demand: ours.demand.clone(),
            node: ours.node,
            stance: Stance::Draft,
            ours: ours.ours.clone(),
        };
        let (demand, theirs) = (draft.demand.clone(), format!("R-{}", state.id(64)));
        state.proposals.insert(theirs.clone(), draft);
        let event = proposal_event(state, config, &theirs, Some(id), now);
        if let Some(demand) = state.demands.get_mut(&demand) {
            demand.events.push_back(event);
        }
    }
    !ids.is_empty()
}

fn agreements(state: &mut State, config: &GolemConfig, now: u64) -> bool {
    let ids: Vec<String> = state.agreements.keys().cloned().collect();
    let mut happened = false;
    for id in ids {
        let agreement = &state.agreements[&id];
        let lapsed = agreement.valid_to_us <= now;
        let word = match agreement.word {
            Word::Proposal | Word::Pending if lapsed => Word::Expired,
            Word::Pending if agreement.answer_us <= now => match config.nodes[agreement.node].manner {
                Manner::Silent => continue,
                Manner::Rejects => Word::Rejected,
                Manner::Good | Manner::NoActivity | Manner::DeployFails(_) | Manner::Overcharges(_) => {
                    let taken = |one: &Agreement| one.word == Word::Approved && one.node == agreement.node;
                    // A provider has one agreement at a time.
                    if state.agreements.values().any(taken) { Word::Rejected } else { Word::Approved }
                }
            },
            _ => continue,
        };
        let at = state.stamp(now);
        let agreement = state.agreements.get_mut(&id).expect("it was there");
        agreement.word = word;
        if word == Word::Approved {
            (agreement.approved_us, agreement.idle_us) = (Some(at), at);
        }
        let event = json!({
            "eventType": format!("Agreement{}Event", word.name()),
            "eventDate": rfc3339(at),
            "agreementId": id,
        });
        state.agreement_events.push((at, id, event));
        happened = true;
    }
    happened
}

fn batches(state: &mut State, config: &GolemConfig, now: u64) -> bool {
    let mut happened = false;
    let mut serve = Vec::new();
    for (id, activity) in &mut state.activities {
        if activity.ended_us.is_some() {
            continue;
        }
        if activity.word == "New" && activity.made_us + micros(config.init) <= now {
            (activity.word, activity.next, happened) = ("Initialized", None, true);
        }
        let manner = &config.nodes[state.agreements[&activity.agreement].node].manner;
        let batches: Vec<String> = activity.batches.keys().cloned().collect();
        for batch in batches {
            happened |= step(activity, &batch, manner, config, now, &mut |key| serve.push((id.clone(), key)));
        }
    }
    state.to_serve.extend(serve);
    happened
}

/// Ends the commands of a batch whose time has come.
fn step(
    activity: &mut Activity,
    id: &str,
    manner: &Manner,
    config: &GolemConfig,
    now: u64,
    serve: &mut dyn FnMut(Option<String>),
) -> bool {
    let mut happened = false;
    loop {
        let batch = activity.batches.get_mut(id).expect("it was there");
        let index = batch.results.len();
        if batch.finished || batch.next_us > now {
            return happened;
        }
        happened = true;
        let command = batch.commands[index].clone();
        let failed = match manner {
            Manner::DeployFails(text) if command.get("deploy").is_some() => Some(text.clone()),
            _ => None,
        };
        let last = failed.is_some() || index + 1 == batch.commands.len();
        let mut result = json!({
            "index": index,
            "eventDate": rfc3339(batch.next_us),
            "result": if failed.is_some() { "Error" } else { "Ok" },
            "isBatchFinished": last,
        });
        if let Some(text) = &failed {
            result["message"] = json!(text);
        }
        batch.results.push(result);
        batch.finished = last;
        batch.next_us += micros(config.run);
        if failed.is_some() {
            activity.next = None;
            continue;
        }
        if command.get("deploy").is_some() {
            (activity.word, activity.next) = ("Deployed", (!last).then_some("Ready"));
        } else if command.get("start").is_some() {
            (activity.word, activity.next) = ("Ready", None);
        } else if let Some(script) = command["run"]["args"][1].as_str() {
            let key = script.split_once("VLLM_API_KEY='").and_then(|(_, rest)| rest.split_once('\''));
            serve(key.map(|(key, _)| key.to_owned()));
        }
    }
}

fn note(state: &mut State, config: &GolemConfig, id: &str, now: u64) {
    let activity = &state.activities[id];
    let used = state.used(&config.nodes, activity, now);
    let agreement = activity.agreement.clone();
    let node = &config.nodes[state.agreements[&agreement].node];
    let times = match node.manner {
        Manner::Overcharges(times) => u128::from(times),
        Manner::Good | Manner::Rejects | Manner::Silent | Manner::NoActivity | Manner::DeployFails(_) => 1,
    };
    let due = node.due(&used) * times;
    let (name, at) = (state.id(32), state.stamp(now));
    state.notes.push(Note {
        id: name,
        agreement,
        activity: id.to_owned(),
        used_us: used,
        due,
        at_us: at,
        accepted_us: None,
    });
    if let Some(activity) = state.activities.get_mut(id) {
        activity.next_note_us = now + micros(config.note_every);
    }
}

fn notes(state: &mut State, config: &GolemConfig, now: u64) -> bool {
    let due = |one: &Activity| one.ended_us.is_none() && one.next_note_us <= now;
    let ids: Vec<String> =
        state.activities.iter().filter(|(_, one)| due(one)).map(|(id, _)| id.clone()).collect();
    for id in &ids {
        note(state, config, id, now);
    }
    !ids.is_empty()
}

/// Providers end agreements that we do not keep, or whose time has come.
fn impatience(state: &mut State, config: &GolemConfig, now: u64) -> bool {
    let ids: Vec<String> = state.agreements.keys().cloned().collect();
    let mut happened = false;
    for id in ids {
        let agreement = &state.agreements[&id];
        if agreement.word != Word::Approved {
            continue;
        }
        let lives = state.activities.values().any(|one| one.agreement == id && one.ended_us.is_none());
        let late = |one: &Note| {
            one.agreement == id
                && one.accepted_us.is_none()
                && one.at_us + micros(config.accept_within) <= now
        };
        let code = if agreement.valid_to_us <= now {
            "Expired"
        } else if state.notes.iter().any(late) {
            "DebitNotesDeadline"
        } else if !lives && agreement.idle_us + micros(config.idle) <= now {
            "NoActivity"
        } else {
            if lives {
                state.agreements.get_mut(&id).expect("it was there").idle_us = now;
            }
            continue;
        };
        let reason = json!({ "message": code, "golem.provider.code": code });
        state.terminate(&id, "Provider", &reason, now);
        happened = true;
    }
    happened
}

/// The last debit notes and the invoice of agreements that are over.
fn invoices(state: &mut State, config: &GolemConfig, now: u64) -> bool {
    let ids: Vec<String> = state.agreements.keys().cloned().collect();
    let mut happened = false;
    for id in ids {
        let agreement = &state.agreements[&id];
        let Some(ended) = agreement.ended_us else { continue };
        let activities: Vec<String> = state
            .activities
            .iter()
            .filter(|(_, one)| one.agreement == id)
            .map(|(id, _)| id.clone())
            .collect();
        if activities.is_empty() {
            continue;
        }
        let notes_at = ended + micros(config.last_note_after);
        if !agreement.last_notes && notes_at <= now {
            for activity in &activities {
                note(state, config, activity, now);
            }
            state.agreements.get_mut(&id).expect("it was there").last_notes = true;
            happened = true;
        }
        let agreement = &state.agreements[&id];
        let copies = 1 + state.switches.second_invoices;
        let at = notes_at + micros(config.invoice_after) * u64::from(agreement.invoiced + 1);
        let due = agreement.last_notes && at <= now && agreement.invoiced < copies;
        if !due || state.switches.invoices_held {
            continue;
        }
        let newest = |activity: &String| {
            let notes = state.notes.iter().filter(|note| note.activity == *activity);
            notes.map(|note| note.due).max().unwrap_or(0)
        };
        let amount = activities.iter().map(newest).sum();
        let (name, at_us) = (state.id(32), state.stamp(now));
        state.invoices.push(Bill { id: name, agreement: id.clone(), amount, at_us, status: "RECEIVED" });
        state.agreements.get_mut(&id).expect("it was there").invoiced += 1;
        happened = true;
    }
    happened
}
