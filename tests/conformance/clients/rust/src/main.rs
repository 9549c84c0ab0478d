//! Client of the matrix: the AWS SDK for Rust, with its default chain for credentials and region.

use std::error::Error;
use std::io::stdin;
use std::sync::{Arc, Mutex};

use aws_sdk_sts::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_sts::config::{Builder, ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_sts::error::{BoxError, DisplayErrorContext};
use aws_smithy_json::serialize::JsonObjectWriter;
use aws_smithy_types::Number;

type Proof = Result<String, Box<dyn Error>>;

/// The access key id that the last request was signed with. To ask the provider instead would be one more request to
/// the metadata service: the client keeps what it was given, the provider does not.
#[derive(Clone, Debug, Default)]
struct SignedWith(Arc<Mutex<String>>);

impl Intercept for SignedWith {
    fn name(&self) -> &'static str {
        "SignedWith"
    }

    fn read_after_signing(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let signature = context.request().headers().get("authorization").unwrap_or_default();
        let scope = signature.split_once("Credential=").map_or("", |(_, rest)| rest);
        *self.0.lock().unwrap() = scope.split('/').next().unwrap_or_default().to_owned();
        Ok(())
    }
}

async fn prove(sts: &aws_sdk_sts::Client, signed_with: &SignedWith) -> Proof {
    sts.get_caller_identity().send().await?;
    Ok(signed_with.0.lock().unwrap().clone())
}

fn print(step: u64, proof: Proof) {
    let mut line = String::new();
    let mut object = JsonObjectWriter::new(&mut line);
    object.key("step").number(Number::PosInt(step));
    object.key("ok").boolean(proof.is_ok());
    match proof {
        Ok(key) => object.key("key").string(&key),
        Err(error) => object.key("error").string(&DisplayErrorContext(&*error).to_string()),
    }
    object.finish();
    println!("{line}");
}

/// Whether there is another line of standard input. The runtime goes on meanwhile, as in a program that has other things
/// to do: else it would not notice that a connection which it keeps was closed.
async fn told_to_go_on() -> bool {
    let read = tokio::task::spawn_blocking(|| stdin().read_line(&mut String::new()));
    read.await.expect("the reader ends").expect("standard input is text") > 0
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Some(place) = std::env::var("METADATA").ok().filter(|place| !place.is_empty()) {
        std::env::set_var("AWS_EC2_METADATA_SERVICE_ENDPOINT", place);
    }
    let http = aws_smithy_http_client::Builder::new().build_http();
    let shared = aws_config::from_env().http_client(http).load().await;
    let place = std::env::var("STS_URL").expect("STS_URL says where the proving call goes");
    let signed_with = SignedWith::default();
    let config = Builder::from(&shared).endpoint_url(place).interceptor(signed_with.clone());
    let sts = aws_sdk_sts::Client::from_conf(config.build());
    for step in 1.. {
        print(step, prove(&sts, &signed_with).await);
        if !told_to_go_on().await {
            return;
        }
    }
}
