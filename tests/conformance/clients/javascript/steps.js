// The matrix's protocol: one line of JSON for each proving call.
const { createInterface } = require("node:readline");

// Proves once at once and then once for each line of standard input, one after the other. `prove` makes the proving
// call and gives its callback an error, or null and the access key id that the client made it with. A callback that
// never comes leaves its step without a line, and the process ends with its input.
exports.run = (prove) => {
  let step = 0;
  let waiting = 1;
  let busy = false;
  const next = () => {
    if (busy || waiting === 0) return;
    waiting -= 1;
    step += 1;
    busy = true;
    prove((error, key) => {
      const said = error ? { step, ok: false, error: causes(error) } : { step, ok: true, key };
      console.log(JSON.stringify(said));
      busy = false;
      next();
    });
  };
  createInterface({ input: process.stdin }).on("line", () => {
    waiting += 1;
    next();
  });
  next();
};

// The access key id in an Authorization header. To ask a provider for it instead can be one more request to the metadata
// service, when what it holds is about to expire.
exports.keyOf = (signature) => /Credential=([^/]+)\//.exec(signature)?.[1];

// Version 2 makes plain objects of its causes, version 3 errors.
const causes = (error) => {
  const cause = error.originalError ?? error.cause;
  const text = `${error.code ?? error.name ?? "error"}: ${error.message}`;
  return cause ? `${text}; caused by ${causes(cause)}` : text;
};

if (process.env.METADATA) process.env.AWS_EC2_METADATA_SERVICE_ENDPOINT = process.env.METADATA;
