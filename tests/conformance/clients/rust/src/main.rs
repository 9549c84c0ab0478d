//! Client of the matrix: the AWS SDK for Rust, with its default chain for credentials and region.

use std::error::Error;
use std::io::{stdin, BufRead};

use aws_config::SdkConfig;
use aws_sdk_sts::config::ProvideCredentials;
use aws_sdk_sts::error::DisplayErrorContext;
use aws_smithy_json::serialize::JsonObjectWriter;
use aws_smithy_types::Number;

type Proof = Result<String, Box<dyn Error>>;

/// Makes the proving call; returns the access key id that the client holds after it.
async fn prove(shared: &SdkConfig, sts: &aws_sdk_sts::Client) -> Proof {
    sts.get_caller_identity().send().await?;
    let provider = shared.credentials_provider().ok_or("no credentials provider")?;
    Ok(provider.provide_credentials().await?.access_key_id().to_owned())
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

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Some(place) = std::env::var("METADATA").ok().filter(|place| !place.is_empty()) {
        std::env::set_var("AWS_EC2_METADATA_SERVICE_ENDPOINT", place);
    }
    let http = aws_smithy_http_client::Builder::new().build_http();
    let shared = aws_config::from_env().http_client(http).load().await;
    let place = std::env::var("STS_URL").expect("STS_URL says where the proving call goes");
    let sts = aws_sdk_sts::Client::from_conf(aws_sdk_sts::config::Builder::from(&shared).endpoint_url(place).build());
    print(1, prove(&shared, &sts).await);
    for (step, line) in (2..).zip(stdin().lock().lines()) {
        line.expect("standard input is text");
        print(step, prove(&shared, &sts).await);
    }
}
