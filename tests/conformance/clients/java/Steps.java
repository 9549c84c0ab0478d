import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.function.Supplier;

/** The matrix's protocol: one line of JSON for each proving call. */
final class Steps {
    private Steps() {}

    /**
     * Proves once at once and then once for each line of standard input, and returns at its end.
     *
     * @param prove makes the proving call and returns the access key id that the client holds after it
     */
    static void run(Supplier<String> prove) throws IOException {
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        int step = 1;
        do {
            try {
                System.out.printf("{\"step\": %d, \"ok\": true, \"key\": %s}%n", step, quoted(prove.get()));
            } catch (RuntimeException error) {
                System.out.printf("{\"step\": %d, \"ok\": false, \"error\": %s}%n", step, quoted(causes(error)));
            }
            step++;
        } while (lines.readLine() != null);
    }

    private static String causes(Throwable error) {
        StringBuilder text = new StringBuilder(error.toString());
        for (Throwable cause = error.getCause(); cause != null; cause = cause.getCause()) {
            text.append("; caused by ").append(cause);
        }
        return text.toString();
    }

    private static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (char one : text.toCharArray()) {
            if (one == '"' || one == '\\') {
                out.append('\\').append(one);
            } else if (one < ' ' || one > '~') {
                out.append(String.format("\\u%04x", (int) one));
            } else {
                out.append(one);
            }
        }
        return out.append('"').toString();
    }
}
