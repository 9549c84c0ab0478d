// Client of the matrix: the AWS SDK for JavaScript, version 2, with its default chain.
const { keyOf, run } = require("./steps.js");
const STS = require("aws-sdk/clients/sts");

const sts = new STS({ endpoint: process.env.STS_URL });

run((done) => {
  const request = sts.getCallerIdentity((error) => done(error, keyOf(request.httpRequest.headers.Authorization)));
});
