import java.io.IOException;
import java.net.URI;
import software.amazon.awssdk.auth.credentials.AwsCredentialsProvider;
import software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider;
import software.amazon.awssdk.services.sts.StsClient;

/** Client of the matrix: the AWS SDK for Java, version 2, with its default chains for credentials and region. */
public final class ClientV2 {
    private final AwsCredentialsProvider provider = DefaultCredentialsProvider.builder().build();
    private StsClient sts;

    private ClientV2() {}

    public static void main(String[] arguments) throws IOException {
        String metadata = System.getenv("METADATA");
        if (metadata != null && !metadata.isEmpty()) {
            System.setProperty("aws.ec2MetadataServiceEndpoint", metadata);
        }
        Steps.run(new ClientV2()::prove);
    }

    private String prove() {
        if (sts == null) {
            sts = StsClient.builder()
                    .endpointOverride(URI.create(System.getenv("STS_URL")))
                    .credentialsProvider(provider)
                    .build();
        }
        sts.getCallerIdentity();
        return provider.resolveCredentials().accessKeyId();
    }
}
