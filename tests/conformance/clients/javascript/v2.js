// Client of the matrix: the AWS SDK for JavaScript, version 2, with its default chain.
const { run } = require("./steps.js");
const AWS = require("aws-sdk/global");
const STS = require("aws-sdk/clients/sts");

const sts = new STS({ endpoint: process.env.STS_URL });

run((done) => sts.getCallerIdentity((error) => done(error, AWS.config.credentials?.accessKeyId)));
