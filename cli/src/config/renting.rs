//! Accounts and the pools that rent in them, as the keepers' landlords want to hear them. Reads the accounts' keys.

use std::{sync::Arc, time::Duration};

use keepers::{
    account::Account,
    landlord::{CallError, Landlord},
    landlords::{
        fly::{Fly, FlyConfig, FlyPlace, FlyPool, Guest, Park},
        golem::{Golem, GolemConfig, GolemPace, GolemPlace, GolemPool},
        lambda::{Lambda, LambdaConfig, LambdaPlace, LambdaPool},
        quick::Quick,
        railway::{Railway, RailwayConfig, RailwayPool, RailwayToken},
        render::{Render, RenderConfig, RenderPool},
    },
    secret::Secret as Hidden,
};
use schemas::PoolId;
use transport::SystemClock;

use super::{
    landlords::{At, LandlordConfig, Machine, RawGolem, RawHosted, RawLambda, Terms},
    process::SimulatedAccount,
    rent::Rent,
    rule::Rule,
    span::Span,
};
use crate::environment;

/// The most that Fly.io gives a stopping machine.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);
/// An image to pull, and a model of a few GB to load.
const START_WITHIN: Duration = Duration::from_secs(600);

/// Between two lists of an account that is simulated.
const SIMULATED_LIST_EVERY: Duration = Duration::from_millis(200);

/// How an account is reached.
struct Access {
    key: Hidden,
    /// Its API, where that is not the provider's own.
    url: Option<String>,
    /// The port at which its machines listen, if the account is simulated here.
    simulated: Option<u16>,
}

impl Access {
    fn url(&self, usual: String) -> String {
        self.url.clone().unwrap_or(usual)
    }

    /// The port at which a machine listens. That of a simulated one is its account's.
    fn port(&self, configured: u16) -> u16 {
        self.simulated.unwrap_or(configured)
    }
}

/// Opens the account for the pools that rent in it. `simulated` are the accounts that are simulated in this process.
pub(super) fn open(
    of: &LandlordConfig,
    rents: &[(&PoolId, &Rent)],
    simulated: &dyn Fn(&str) -> Option<SimulatedAccount>,
) -> Result<Arc<Account>, Rule> {
    let access = match &of.at {
        At::Provider { secret, base_url } => Access {
            key: Hidden::new(secret.read(environment::variable)?),
            url: base_url.clone(),
            simulated: None,
        },
        At::Simulated(name) => {
            let SimulatedAccount { url, key, port } = simulated(name).ok_or_else(|| {
                let rule = format!("`{name}` runs in the process of `beacon up` or `beacon demo` only");
                Rule::new(format!("{}.simulator", of.key), rule)
            })?;
            Access { key: Hidden::new(key), url: Some(url), simulated: Some(port) }
        }
    };
    let own: Vec<_> = rents.iter().filter(|(_, rent)| rent.landlord == of.name).copied().collect();
    let landlord = landlord(of, &own, &access)?;
    let landlord = match access.simulated {
        Some(_) => Arc::new(Quick::new(landlord, SIMULATED_LIST_EVERY)) as Arc<dyn Landlord>,
        None => landlord,
    };
    Ok(Account::new(of.name.clone(), landlord))
}

fn landlord(
    of: &LandlordConfig,
    own: &[(&PoolId, &Rent)],
    access: &Access,
) -> Result<Arc<dyn Landlord>, Rule> {
    let refuse = |error: CallError| Rule::new(of.key.clone(), error.to_string());
    let (own, key) = (own.iter(), access.key.clone());
    Ok(match &of.terms {
        Terms::Fly { org } => {
            let mut config = FlyConfig::new(key);
            config.base_url = access.url(config.base_url);
            config.org.clone_from(org);
            config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), fly(rent, access)?))).collect();
            if access.simulated.is_some() {
                (config.pace, config.change_within) = (Duration::ZERO, Duration::from_millis(200));
            }
            Arc::new(Fly::new(config).map_err(refuse)?)
        }
        Terms::Golem { usd_per_glm, platform, subnet, session, listen } => {
            let pools = own.filter_map(|(id, rent)| Some(((*id).clone(), golem(rent)?))).collect();
            let mut config = GolemConfig::new(key, *usd_per_glm, pools);
            config.url = access.url(config.url);
            config.platform = platform.clone().unwrap_or(config.platform);
            config.subnet = subnet.clone().unwrap_or(config.subnet);
            config.session = session.clone().unwrap_or(config.session);
            config.listen = *listen;
            if access.simulated.is_some() {
                config.pace = quick_golem();
            }
            Arc::new(Golem::new(config, Arc::new(SystemClock)).map_err(refuse)?)
        }
        Terms::Lambda { ssh_public_key } => {
            let mut config = LambdaConfig::new(key, ssh_public_key);
            config.base_url = access.url(config.base_url);
            config.pools =
                own.filter_map(|(id, rent)| Some(((*id).clone(), lambda(rent, access)?))).collect();
            if access.simulated.is_some() {
                (config.pace, config.launch_pace) = (Duration::ZERO, Duration::ZERO);
            }
            Arc::new(Lambda::new(config).map_err(refuse)?)
        }
        Terms::Railway { project, environment, project_token, prices, usage_unit, sleep } => {
            let token = if *project_token { RailwayToken::Project(key) } else { RailwayToken::Account(key) };
            let mut config = RailwayConfig::new(token, project, environment, *prices);
            config.api = access.url(config.api);
            (config.usage_unit, config.sleep) = (*usage_unit, *sleep);
            config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), railway(rent)?))).collect();
            if access.simulated.is_some() {
                "http".clone_into(&mut config.edge_scheme);
            }
            Arc::new(Railway::new(config).map_err(refuse)?)
        }
        Terms::Render { owner, plans } => {
            let mut config = RenderConfig::new(key, owner);
            config.api = access.url(config.api);
            config.usd_per_hour = plans.clone();
            config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), render(rent)?))).collect();
            if access.simulated.is_some() {
                config.resume_shows_within = Duration::from_millis(200);
            }
            Arc::new(Render::new(config).map_err(refuse)?)
        }
    })
}

/// The pace of a market in which everything takes milliseconds.
fn quick_golem() -> GolemPace {
    let ms = Duration::from_millis;
    GolemPace {
        poll: ms(300),
        again: ms(20),
        gather: ms(40),
        negotiate_within: Duration::from_secs(10),
        approve_within: Duration::from_secs(5),
        activity_within: Duration::from_secs(1),
        deploy_within: Duration::from_secs(30),
        upkeep: ms(100),
        list_every: SIMULATED_LIST_EVERY,
        ..GolemPace::default()
    }
}

fn fly(rent: &Rent, access: &Access) -> Option<FlyPool> {
    let Machine::Fly(machine) = &rent.machine else { return None };
    let raw = machine.as_ref().clone();
    let place = |region: &String| FlyPlace {
        region: region.clone(),
        usd_per_hour: raw.usd_per_hour,
        parked_usd_per_hour: raw.parked_usd_per_hour,
        priced_on: raw.priced_on,
    };
    Some(FlyPool {
        app: raw.app,
        guest: Guest { cpu_kind: raw.cpu_kind, cpus: raw.cpus, memory_mb: raw.memory_mb },
        places: rent.places.iter().map(place).collect(),
        image: raw.image,
        args: raw.args,
        env: raw.env,
        key_env: raw.key_env.unwrap_or_else(|| "VLLM_API_KEY".to_owned()),
        port: access.port(raw.port),
        address: raw.address,
        stop_timeout: raw.stop_timeout.map_or(STOP_TIMEOUT, Span::get),
        park: if raw.suspend { Park::Suspend } else { Park::Stop },
        start_within: raw.start_within.map_or(START_WITHIN, Span::get),
    })
}

fn golem(rent: &Rent) -> Option<GolemPool> {
    let Machine::Golem(machine) = &rent.machine else { return None };
    let RawGolem {
        runtime,
        capabilities,
        gpu,
        mem_gib,
        storage_gib,
        image,
        serve,
        port,
        rent_for,
        glm_per_hour_max,
        glm_start_max,
        nodes,
    } = machine.as_ref().clone();
    let place = |name: &String| GolemPlace {
        name: name.clone(),
        providers: nodes.get(name).cloned().unwrap_or_default(),
    };
    Some(GolemPool {
        sku: rent.sku.clone(),
        runtime,
        capabilities,
        gpu,
        mem_gib,
        storage_gib,
        image,
        serve,
        port,
        server_secret: rent.secret().ok().flatten(),
        rent_for: rent_for.get(),
        glm_per_hour_max: glm_per_hour_max.parse().ok()?,
        glm_start_max: glm_start_max.parse().ok()?,
        places: rent.places.iter().map(place).collect(),
    })
}

fn lambda(rent: &Rent, access: &Access) -> Option<LambdaPool> {
    let Machine::Lambda(machine) = &rent.machine else { return None };
    let RawLambda { image, image_family, args, env, port, firewall, start_within } = machine.clone();
    let place = |region: &String| LambdaPlace {
        region: region.clone(),
        firewall_ruleset: firewall.get(region).cloned(),
    };
    Some(LambdaPool {
        sku: rent.sku.clone(),
        places: rent.places.iter().map(place).collect(),
        image_family,
        image,
        args,
        env,
        port: access.port(port),
        start_within: start_within.map(Span::get),
    })
}

fn railway(rent: &Rent) -> Option<RailwayPool> {
    let Machine::Railway(RawHosted { image, start_command, port, env, .. }) = rent.machine.clone() else {
        return None;
    };
    let plan = RailwayPool::new("", rent.sku.clone(), image);
    let health_path = rent.health_path.clone();
    Some(RailwayPool {
        places: rent.places.clone(),
        start_command,
        port,
        variables: env,
        health_path,
        ..plan
    })
}

fn render(rent: &Rent) -> Option<RenderPool> {
    let Machine::Render(RawHosted { image, start_command, registry_credential, port, env }) =
        rent.machine.clone()
    else {
        return None;
    };
    let plan = RenderPool::new("", rent.sku.clone(), image);
    Some(RenderPool {
        places: rent.places.clone(),
        registry_credential,
        start_command,
        port,
        variables: env,
        health_path: rent.health_path.clone(),
        ..plan
    })
}
