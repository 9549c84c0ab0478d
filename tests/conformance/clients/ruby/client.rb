# Client of the matrix: the AWS SDK for Ruby, with its default chain.

require "aws-sdk-core"
require "json"
require "uri"

# The SDK's own variable takes a host and no port, so METADATA is passed to the provider itself.
def told
  place = ENV.fetch("METADATA", "")
  return {} if place.empty?

  place = URI(place)
  { credentials: Aws::InstanceProfileCredentials.new(endpoint: place.host, port: place.port) }
end

# Makes the proving call; returns the access key id that it was signed with. To ask the provider for it instead can be
# one more request to the metadata service, when what it holds is about to expire.
def prove
  @sts ||= Aws::STS::Client.new(endpoint: ENV.fetch("STS_URL"), **told)
  signature = @sts.get_caller_identity.context.http_request.headers["authorization"]
  signature[%r{Credential=([^/]+)/}, 1]
end

def causes(error)
  text = "#{error.class}: #{error.message}"
  error.cause ? "#{text}; caused by #{causes(error.cause)}" : text
end

$stdout.sync = true
step = 1
loop do
  line = begin
    { step: step, ok: true, key: prove }
  rescue StandardError => e
    { step: step, ok: false, error: causes(e) }
  end
  puts JSON.generate(line)
  step += 1
  line = $stdin.gets
  break if line.nil?

  @sts = nil if line == "anew\n"
end
