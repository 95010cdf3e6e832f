//! `spire.api.server.logger.v1.Logger`: how much the process logs.

use std::sync::Arc;

use ca_core::log::Caller;
use mintmark_proto::spire::logger::v1::logger_server;
use mintmark_proto::spire::logger::v1::{
    GetLoggerRequest, ResetLogLevelRequest, SetLogLevelRequest,
};
use mintmark_proto::spire::types::{self, LogLevel};
use tonic::{Request, Response, Status};

use crate::admin_socket::caller;
use crate::log_levels::LogLevels;
use crate::status::Failure;

pub(crate) struct Logger {
    levels: Arc<LogLevels>,
}

impl Logger {
    pub(crate) fn new(levels: Arc<LogLevels>) -> Self {
        Self { levels }
    }

    fn set(&self, level: LogLevel, caller: &Caller) -> Result<(), Failure> {
        let before = self.levels.current();
        let announce = || {
            tracing::info!(
                %caller, from = before.as_str_name(), to = level.as_str_name(), "log level changed"
            );
        };
        // Written while the more talkative of the two levels holds, or it would not be seen.
        if level < before {
            announce();
        }
        self.levels.set(level)?;
        if level > before {
            announce();
        }
        Ok(())
    }

    fn state(&self) -> Response<types::Logger> {
        Response::new(types::Logger {
            current_level: self.levels.current().into(),
            launch_level: self.levels.launch().into(),
        })
    }
}

#[tonic::async_trait]
impl logger_server::Logger for Logger {
    async fn get_logger(
        &self,
        _: Request<GetLoggerRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        Ok(self.state())
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        let caller = caller(&request)?;
        let level = match LogLevel::try_from(request.get_ref().new_level) {
            Ok(LogLevel::Unspecified) => return Err(Failure::LogLevelUnspecified.into()),
            Ok(level) => level,
            Err(_) => return Err(Failure::LogLevelUnknown.into()),
        };
        self.set(level, &caller)?;
        Ok(self.state())
    }

    async fn reset_log_level(
        &self,
        request: Request<ResetLogLevelRequest>,
    ) -> Result<Response<types::Logger>, Status> {
        self.set(self.levels.launch(), &caller(&request)?)?;
        Ok(self.state())
    }
}
