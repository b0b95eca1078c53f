/* Give h2load a client certificate, which it has no option for: LD_PRELOAD this. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

int SSL_CTX_use_certificate_chain_file(void *context, const char *file);
int SSL_CTX_use_PrivateKey_file(void *context, const char *file, int type);

void *SSL_CTX_new(const void *method) {
  void *(*make)(const void *) = (void *(*)(const void *))dlsym(RTLD_NEXT, "SSL_CTX_new");
  void *context = make(method);
  const int pem = 1;
  if (SSL_CTX_use_certificate_chain_file(context, getenv("BENCH_CERTIFICATE")) != 1 ||
      SSL_CTX_use_PrivateKey_file(context, getenv("BENCH_KEY"), pem) != 1)
    abort();
  return context;
}
