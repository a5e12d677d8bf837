//go:build pact && cgo

package engine

/*
#include <stdint.h>
#include <stdlib.h>

// Of the Pact core's C interface, what pact-go keeps to itself: the mock provider's
// mismatches and the verifier's report, both as JSON. pact-go links the library.
struct VerifierHandle;
extern char *pactffi_mock_server_mismatches(int32_t port);
extern struct VerifierHandle *pactffi_verifier_new_for_application(const char *name, const char *version);
extern void pactffi_verifier_shutdown(struct VerifierHandle *handle);
extern void pactffi_verifier_set_provider_info(struct VerifierHandle *handle, const char *name, const char *scheme, const char *host, unsigned short port, const char *path);
extern void pactffi_verifier_add_provider_transport(struct VerifierHandle *handle, const char *protocol, unsigned short port, const char *path, const char *scheme);
extern void pactffi_verifier_set_provider_state(struct VerifierHandle *handle, const char *url, unsigned char teardown, unsigned char body);
extern int pactffi_verifier_set_verification_options(struct VerifierHandle *handle, unsigned char disable_ssl_verification, unsigned long request_timeout);
extern int pactffi_verifier_set_coloured_output(struct VerifierHandle *handle, unsigned char coloured_output);
extern void pactffi_verifier_add_file_source(struct VerifierHandle *handle, const char *file);
extern int pactffi_verifier_execute(struct VerifierHandle *handle);
extern const char *pactffi_verifier_json(const struct VerifierHandle *handle);
extern const char *pactffi_verifier_output(const struct VerifierHandle *handle, unsigned char strip_ansi);
extern void pactffi_string_delete(char *string);
*/
import "C"

import (
	"fmt"
	"unsafe"
)

// arena frees C strings together.
type arena []*C.char

func (a *arena) string(s string) *C.char {
	c := C.CString(s)
	*a = append(*a, c)
	return c
}

func (a *arena) free() {
	for _, c := range *a {
		C.free(unsafe.Pointer(c))
	}
}

// taken copies a string that the core has allocated, and gives it back.
func taken(c *C.char) string {
	if c == nil {
		return ""
	}
	defer C.pactffi_string_delete(c)
	return C.GoString(c)
}

func mockMismatches(port int) []string {
	// The core owns this string until the mock provider ends.
	c := C.pactffi_mock_server_mismatches(C.int32_t(port))
	if c == nil {
		return []string{"the mock provider is gone"}
	}
	return readMismatches(C.GoString(c))
}

// Verify replays the contract in file, which holds one interaction, against the
// target. problems are how the provider differs.
func Verify(t Target, file string) (problems []string, err error) {
	var a arena
	defer a.free()
	h := C.pactffi_verifier_new_for_application(a.string("napkin"), a.string("1"))
	if h == nil {
		return nil, &NotRun{"no verifier"}
	}
	defer C.pactffi_verifier_shutdown(h)
	scheme, port := a.string("http"), C.ushort(t.Port)
	C.pactffi_verifier_set_provider_info(h, a.string(t.Provider), scheme, a.string(t.Host), port, a.string("/"))
	C.pactffi_verifier_add_provider_transport(h, a.string("message"), port, a.string(t.MessagePath), scheme)
	C.pactffi_verifier_set_provider_state(h, a.string(fmt.Sprintf("http://%s:%d%s", t.Host, t.Port, t.StatePath)), 1, 1)
	C.pactffi_verifier_set_verification_options(h, 0, C.ulong(t.Timeout.Milliseconds())) //nolint:gosec // positive
	C.pactffi_verifier_set_coloured_output(h, 0)
	C.pactffi_verifier_add_file_source(h, a.string(file))
	code := C.pactffi_verifier_execute(h)
	report := taken((*C.char)(unsafe.Pointer(C.pactffi_verifier_json(h))))
	output := taken((*C.char)(unsafe.Pointer(C.pactffi_verifier_output(h, 1))))
	return readReport(int(code), report, output)
}
