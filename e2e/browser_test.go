package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/twotier/twotier/e2e/lab"
)

// chromium opens a real browser on the client machine.
func chromium(t testing.TB) context.Context {
	t.Helper()
	nsenter := lab.On(t, "client").Enter()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx, chromedp.WithAllocatorOptions(
		chromedp.ExecPath("chromium-headless-shell"),
		chromedp.NoSandbox, // the stories run as root
		chromedp.WindowSize(1000, 900),
		chromedp.ModifyCmdFunc(func(cmd *exec.Cmd) {
			// The same command, in the network of the client machine.
			cmd.Args = append(nsenter, append([]string{cmd.Path}, cmd.Args[1:]...)...)
			cmd.Path = nsenter[0]
		}),
	))
	t.Cleanup(cancel)
	return ctx
}

// A person with a real browser registers, writes in Chinese, attaches a file, sees it all, and stays with its server
// when the page is loaded again. The cookie is kept from scripts.
func TestPersonWithABrowser(t *testing.T) {
	ctx := chromium(t)
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	text := func() string {
		t.Helper()
		text, err := chromedp.Run(ctx, chromedp.Text("body"))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	shows := func(want string) {
		t.Helper()
		lab.Within(t, promise, "the page shows "+want, func() error {
			if got := text(); !strings.Contains(got, want) {
				return &missing{want, got}
			}
			return nil
		})
	}
	base, name := "http://"+lab.VIP, unique(t, "b")
	file := filepath.Join(t.TempDir(), "图片 notes.txt")
	if err := os.WriteFile(file, []byte("a note\n"), 0o644); err != nil {
		t.Fatal(err)
	}

	do(chromedp.Navigate(base+"/register"),
		chromedp.SendKeys(`input[name="name"]`, name),
		chromedp.SendKeys(`input[name="email"]`, name+"@example.org"),
		chromedp.SendKeys(`form[action="/register"] input[name="password"]`, password),
		chromedp.Submit(`form[action="/register"]`))
	shows("Logged in as " + name)

	title := "两级负载均衡 " + name
	do(chromedp.Navigate(base+board(t, public(t))),
		chromedp.Click(`a[href$="/new"]`),
		chromedp.SendKeys(`input[name="title"]`, title),
		chromedp.SendKeys(`textarea[name="body"]`, "先到 LVS，再到 HAProxy。\n第二行。"),
		chromedp.SetUploadFiles(`input[name="file"]`, []string{file}),
		chromedp.Submit(`form[enctype="multipart/form-data"]`))
	shows(title)
	shows("先到 LVS，再到 HAProxy。")
	shows("图片 notes.txt")

	cookie := func() string {
		t.Helper()
		got, err := chromedp.Call(ctx, network.GetCookies, network.GetCookiesParams{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range got.Cookies {
			if c.Name == "webserver" {
				if !c.HTTPOnly {
					t.Error("scripts in the page can read the cookie webserver")
				}
				return c.Value
			}
		}
		t.Fatalf("the browser has no cookie webserver, only %v", got.Cookies)
		return ""
	}
	before := cookie()
	for range 5 {
		do(chromedp.Reload())
		shows(title)
		if after := cookie(); after != before {
			t.Errorf("reloading changed the cookie from %q to %q", before, after)
		}
	}
}

// missing is a text that a page does not show.
type missing struct{ want, got string }

func (m *missing) Error() string {
	return "no " + m.want + " in: " + m.got[:min(len(m.got), 500)]
}
