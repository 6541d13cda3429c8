//! Where the outcome of an asynchronous invocation goes: another function of this host.

use crate::error::Refusal;
use crate::model::FunctionName;

/// Reads `acs:fc:REGION:ACCOUNT:services/SERVICE[.QUALIFIER]/functions/FUNCTION`, or
/// `acs:fc:REGION:ACCOUNT:functions/FUNCTION[/QUALIFIER]`; `None` for anything else.
pub(crate) fn parse(text: &str) -> Option<(FunctionName, String)> {
    let resource = text.strip_prefix("acs:fc:")?.splitn(3, ':').nth(2)?;
    let segments: Vec<&str> = resource.split('/').collect();
    match segments.as_slice() {
        ["services", service, "functions", function] => {
            let (service, qualifier) = crate::api::split_qualifier(service);
            let name = crate::api::full_name(service, function);
            Some((name, qualifier.to_owned()))
        }
        ["functions", function] => Some((crate::api::flat_name(function), String::new())),
        ["functions", function, qualifier] => {
            Some((crate::api::flat_name(function), (*qualifier).to_owned()))
        }
        _ => None,
    }
}

/// Checks a destination; an empty one is none.
///
/// # Errors
/// [`Refusal`] for what is no function.
pub(crate) fn check(text: &str) -> Result<(), Refusal> {
    if text.is_empty() || parse(text).is_some() {
        return Ok(());
    }
    Err(Refusal::invalid(format!(
        "destination {text:?} is not here: it has to be a function, \
         acs:fc:REGION:ACCOUNT:services/SERVICE/functions/FUNCTION"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_destinations() {
        let read = |text| parse(text).map(|(name, qualifier)| (name.to_string(), qualifier));
        let some = |name: &str, qualifier: &str| Some((name.to_owned(), qualifier.to_owned()));
        let service = "acs:fc:cn-hangzhou:1:services/demo.prod/functions/web";
        assert_eq!(read(service), some("demo/web", "prod"));
        assert_eq!(read("acs:fc:::functions/web"), some("web", ""));
        assert!(read("acs:mns:::queues/x").is_none() && check("acs:mns:::queues/x").is_err());
        assert!(check("").is_ok());
    }
}
