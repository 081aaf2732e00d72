import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.Map;
import org.apache.iceberg.CatalogProperties;
import org.apache.iceberg.jdbc.JdbcCatalog;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import org.eclipse.jetty.server.Server;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;
import org.apache.hadoop.conf.Configuration;

/**
 * Iceberg's own REST catalog, as its project tests with, on 127.0.0.1: over a JDBC catalog in a
 * SQLite file, whose tables another program may have made.
 *
 * usage: RestCatalog PORT JDBC_URL WAREHOUSE [simple] [secret]
 *   simple  does not offer to commit several tables at once
 *   secret  answers only with a token its own token endpoint gave to client "medlake"
 */
public class RestCatalog {
  public static void main(String[] arguments) throws Exception {
    var options = java.util.Set.of(java.util.Arrays.copyOfRange(arguments, 3, arguments.length));
    JdbcCatalog catalog = new JdbcCatalog();
    catalog.setConf(new Configuration());
    catalog.initialize(
        "medlake",
        Map.of(
            CatalogProperties.URI, arguments[1],
            CatalogProperties.WAREHOUSE_LOCATION, arguments[2],
            "jdbc.schema-version", "V1"));
    RESTCatalogServlet servlet =
        new RESTCatalogServlet(new RESTCatalogAdapter(catalog)) {
          @Override
          protected void service(HttpServletRequest request, HttpServletResponse response)
              throws ServletException, IOException {
            String path = request.getRequestURI();
            String token = request.getHeader("Authorization");
            boolean known = token != null && token.contains("sub=medlake");
            if (options.contains("secret") && !path.endsWith("oauth/tokens") && !known) {
              refuse(response, 401, "NotAuthorizedException");
            } else if (options.contains("simple") && path.endsWith("transactions/commit")) {
              refuse(response, 406, "UnsupportedOperationException");
            } else if (options.contains("simple") && path.equals("/v1/config")) {
              response.setContentType("application/json");
              response.getWriter().print("{\"defaults\":{},\"overrides\":{}}");
            } else {
              super.service(request, response);
            }
          }
        };
    ServletContextHandler context = new ServletContextHandler();
    context.addServlet(new ServletHolder(servlet), "/*");
    Server server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])));
    server.setHandler(context);
    server.start();
    server.join();
  }

  private static void refuse(HttpServletResponse response, int status, String type)
      throws IOException {
    response.setStatus(status);
    response.setContentType("application/json");
    response
        .getWriter()
        .printf("{\"error\":{\"message\":\"refused\",\"type\":\"%s\",\"code\":%d}}", type, status);
  }
}
