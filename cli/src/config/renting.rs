//! Accounts and the pools that rent in them, as the keepers' landlords want to hear them. Reads the accounts' keys.

use std::{sync::Arc, time::Duration};

use keepers::{
    account::Account,
    landlord::{CallError, Landlord},
    landlords::{
        fly::{Fly, FlyConfig, FlyPlace, FlyPool, Guest, Park},
        golem::{Golem, GolemConfig, GolemPlace, GolemPool},
        lambda::{Lambda, LambdaConfig, LambdaPlace, LambdaPool},
        railway::{Railway, RailwayConfig, RailwayPool, RailwayToken},
        render::{Render, RenderConfig, RenderPool},
    },
    secret::Secret as Hidden,
};
use schemas::PoolId;
use transport::SystemClock;

use super::{
    landlords::{LandlordConfig, Machine, RawGolem, RawHosted, RawLambda, Terms},
    rent::Rent,
    rule::Rule,
    span::Span,
};
use crate::environment;

/// The most that Fly.io gives a stopping machine.
const STOP_TIMEOUT: Duration = Duration::from_secs(300);
/// An image to pull, and a model of a few GB to load.
const START_WITHIN: Duration = Duration::from_secs(600);

/// Opens the account for the pools that rent in it.
pub(super) fn open(of: &LandlordConfig, rents: &[(&PoolId, &Rent)]) -> Result<Arc<Account>, Rule> {
    let refuse = |error: CallError| Rule::new(of.key.clone(), error.to_string());
    let key = Hidden::new(of.secret.read(environment::variable)?);
    let own = rents.iter().filter(|(_, rent)| rent.landlord == of.name);
    let landlord: Arc<dyn Landlord> = match &of.terms {
        Terms::Fly { org } => {
            let mut config = FlyConfig::new(key);
            config.base_url = of.base_url.clone().unwrap_or(config.base_url);
            config.org.clone_from(org);
            config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), fly(rent)?))).collect();
            Arc::new(Fly::new(config).map_err(refuse)?)
        }
        Terms::Golem { usd_per_glm, platform, subnet, session, listen } => {
            let pools = own.filter_map(|(id, rent)| Some(((*id).clone(), golem(rent)?))).collect();
            let mut config = GolemConfig::new(key, *usd_per_glm, pools);
            config.url = of.base_url.clone().unwrap_or(config.url);
            config.platform = platform.clone().unwrap_or(config.platform);
            config.subnet = subnet.clone().unwrap_or(config.subnet);
            config.session = session.clone().unwrap_or(config.session);
            config.listen = *listen;
            Arc::new(Golem::new(config, Arc::new(SystemClock)).map_err(refuse)?)
        }
        Terms::Lambda { ssh_public_key } => {
            let mut config = LambdaConfig::new(key, ssh_public_key);
            config.base_url = of.base_url.clone().unwrap_or(config.base_url);
            config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), lambda(rent)?))).collect();
            Arc::new(Lambda::new(config).map_err(refuse)?)
        }
        Terms::Railway { project, environment, project_token, prices, usage_unit, sleep } => {
            let token = if *project_token { RailwayToken::Project(key) } else { RailwayToken::Account(key) };
            let mut config = RailwayConfig::new(token, project, environment, *prices);
            config.api = of.base_url.clone().unwrap_or(config.api);
            (config.usage_unit, config.sleep) = (*usage_unit, *sleep);
            config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), railway(rent)?))).collect();
            Arc::new(Railway::new(config).map_err(refuse)?)
        }
        Terms::Render { owner, plans } => {
            let mut config = RenderConfig::new(key, owner);
            config.api = of.base_url.clone().unwrap_or(config.api);
            config.usd_per_hour = plans.clone();
            config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), render(rent)?))).collect();
            Arc::new(Render::new(config).map_err(refuse)?)
        }
    };
    Ok(Account::new(of.name.clone(), landlord))
}

fn fly(rent: &Rent) -> Option<FlyPool> {
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
        port: raw.port,
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

fn lambda(rent: &Rent) -> Option<LambdaPool> {
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
        port,
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
