// Client of the matrix: the AWS SDK for JavaScript, version 3, with its default chains.
const { run } = require("./steps.js");
const { GetCallerIdentityCommand, STSClient } = require("@aws-sdk/client-sts");

const sts = new STSClient({ endpoint: process.env.STS_URL });

run((done) => {
  sts
    .send(new GetCallerIdentityCommand({}))
    .then(() => sts.config.credentials())
    .then(
      (held) => done(null, held.accessKeyId),
      (error) => done(error),
    );
});
