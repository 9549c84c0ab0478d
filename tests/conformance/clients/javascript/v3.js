// Client of the matrix: the AWS SDK for JavaScript, version 3, with its default chains.
const { run } = require("./steps.js");
const { GetCallerIdentityCommand, STSClient } = require("@aws-sdk/client-sts");

const sts = new STSClient({ endpoint: process.env.STS_URL });

// The key is read off the signature: to ask the provider for it can be one more request to the metadata service, when
// what it holds is about to expire.
let signature;
sts.middlewareStack.add(
  (next) => (args) => {
    signature = args.request.headers.authorization;
    return next(args);
  },
  { step: "deserialize", priority: "low" },
);

run((done) => {
  sts.send(new GetCallerIdentityCommand({})).then(
    () => done(null, /Credential=([^/]+)\//.exec(signature)?.[1]),
    (error) => done(error),
  );
});
