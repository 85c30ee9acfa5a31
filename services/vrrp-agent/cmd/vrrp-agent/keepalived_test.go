package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/internal/testreq"
)

func requireKeepalived(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("keepalived"); err != nil {
		testreq.Missing(t, "keepalived")
	}
}

// keepalivedOnHaproxy2 is the VRRP part of the tutorial's second file. Its scripts are left out: they would start and
// stop a service of this machine.
const keepalivedOnHaproxy2 = `
vrrp_instance VI_1 {
    state BACKUP
    interface eth0
    virtual_router_id 53
    priority 99
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass 2222
    }
    virtual_ipaddress {
        192.168.60.78
    }
}

vrrp_instance VI_3 {
    state MASTER
    interface eth0
    virtual_router_id 56
    priority 105
    advert_int 1
    authentication {
        auth_type PASS
        auth_pass 1111
    }
    virtual_ipaddress {
        192.168.60.55
    }
}
`

var keepalivedAuthentication = regexp.MustCompile(`(?s)    authentication \{.*?\}\n`)

// keepalivedVersion3 is keepalivedOnHaproxy2 in version 3, with an interval in milliseconds.
func keepalivedVersion3(interval int) string {
	text := keepalivedAuthentication.ReplaceAllString(keepalivedOnHaproxy2, "    version 3\n")
	return strings.ReplaceAll(text, "advert_int 1", fmt.Sprintf("advert_int %.2f", float64(interval)/1000))
}

// keepalived starts keepalived.
func (m *machine) keepalived(t *testing.T, configuration string) *process {
	t.Helper()
	folder := t.TempDir()
	file := filepath.Join(folder, "keepalived.conf")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	return m.run(t, "keepalived", "--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file", file,
		"--pid", filepath.Join(folder, "pid"), "--vrrp_pid", filepath.Join(folder, "vrrp-pid"))
}
