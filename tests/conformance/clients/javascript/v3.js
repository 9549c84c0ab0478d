// Client of the matrix: the AWS SDK for JavaScript, version 3, with its default chains.
const { keyOf, run } = require("./steps.js");
const { GetCallerIdentityCommand, STSClient } = require("@aws-sdk/client-sts");

const sts = new STSClient({ endpoint: process.env.STS_URL });

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
    () => done(null, keyOf(signature)),
    (error) => done(error),
  );
});
