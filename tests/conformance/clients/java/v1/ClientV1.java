import com.amazonaws.auth.AWSCredentialsProvider;
import com.amazonaws.auth.DefaultAWSCredentialsProviderChain;
import com.amazonaws.client.builder.AwsClientBuilder.EndpointConfiguration;
import com.amazonaws.regions.DefaultAwsRegionProviderChain;
import com.amazonaws.services.securitytoken.AWSSecurityTokenService;
import com.amazonaws.services.securitytoken.AWSSecurityTokenServiceClientBuilder;
import com.amazonaws.services.securitytoken.model.GetCallerIdentityRequest;
import java.io.IOException;
import java.util.logging.LogManager;

/** Client of the matrix: the AWS SDK for Java, version 1, with its default chains for credentials and region. */
public final class ClientV1 {
    private final AWSCredentialsProvider provider = DefaultAWSCredentialsProviderChain.getInstance();
    private AWSSecurityTokenService sts;

    private ClientV1() {}

    public static void main(String[] arguments) throws IOException {
        LogManager.getLogManager().reset(); // its advice on the age of the SDK
        String metadata = System.getenv("METADATA");
        if (metadata != null && !metadata.isEmpty()) {
            System.setProperty("com.amazonaws.sdk.ec2MetadataServiceEndpointOverride", metadata);
        }
        Steps.run(new ClientV1()::prove);
    }

    private String prove() {
        if (sts == null) {
            // Who names an endpoint must name a region too: the one that the builder would have found.
            String region = new DefaultAwsRegionProviderChain().getRegion();
            sts = AWSSecurityTokenServiceClientBuilder.standard()
                    .withEndpointConfiguration(new EndpointConfiguration(System.getenv("STS_URL"), region))
                    .withCredentials(provider)
                    .build();
        }
        sts.getCallerIdentity(new GetCallerIdentityRequest());
        return provider.getCredentials().getAWSAccessKeyId();
    }
}
