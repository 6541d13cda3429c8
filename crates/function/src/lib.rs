//! The function host: functions packaged as images, scaled from zero by the first request.

#[allow(dead_code)]
mod auth;
#[allow(dead_code)]
mod schedule;
#[allow(dead_code)]
mod template;
