package http1

import "testing"

func TestPathForms(t *testing.T) {
	t.Parallel()
	tests := []struct{ path, normalised, decoded string }{
		{"", "", ""},
		{"*", "*", "*"},
		{"/", "/", "/"},
		{"/a/b", "/a/b", "/a/b"},
		{"/%61dmin/%7e", "/admin/~", "/admin/~"},
		{"/a%2fb", "/a%2Fb", "/a/b"},
		{"/a%2Fb%3f", "/a%2Fb%3F", "/a/b?"},
		{"/%zz%4", "/%25zz%254", "/%zz%4"},
		{"/%%370", "/%2570", "/%70"},
		{"/a/./b", "/a/b", "/a/b"},
		{"/a/../b", "/b", "/b"},
		{"/a/%2e%2E/b", "/b", "/b"},
		{"/a/.%2e/b", "/b", "/b"},
		{"/..", "/", "/"},
		{"/../../a", "/a", "/a"},
		{"/a/.", "/a/", "/a/"},
		{"/a/..", "/", "/"},
		{"/a/b/..", "/a/", "/a/"},
		{"/.a/..b/...", "/.a/..b/...", "/.a/..b/..."},
		{"//a//b", "//a//b", "/a/b"},
		{"/a//../b", "/a/b", "/b"}, // the servers differ here
		{`/a\..\b`, `/a\..\b`, "/b"},
		{"/a/%252e%252e/b", "/a/%252e%252e/b", "/a/%2e%2e/b"}, // once
		{"/public%2f..%2fadmin", "/public%2F..%2Fadmin", "/admin"},
		{"/%00", "/%00", "/\x00"},
		{"a/../b", "a/../b", "a/../b"},
	}
	for _, test := range tests {
		if got := string(AppendNormalisedPath(nil, []byte(test.path))); got != test.normalised {
			t.Errorf("%q normalised: got %q, want %q", test.path, got, test.normalised)
		}
		if got := string(AppendDecodedPath([]byte("x/"), []byte(test.path))); got != "x/"+test.decoded {
			t.Errorf("%q decoded: got %q, want %q", test.path, got, "x/"+test.decoded)
		}
	}
	if got := string(AppendDecodedText(nil, []byte("a+b%26%3d%"))); got != "a b&=%" {
		t.Errorf("text: %q", got)
	}
}

func FuzzPathForms(f *testing.F) {
	for _, seed := range []string{"/", "/a/../b", "/%2e%2e/%2F//x", `/a\..\b/.`, "//..//.", "/%", "*", "/a/%2e"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, path []byte) {
		once := AppendNormalisedPath(nil, path)
		if twice := AppendNormalisedPath(nil, once); string(twice) != string(once) {
			t.Errorf("%q: normalised %q, twice %q", path, once, twice)
		}
		loose := AppendDecodedPath(nil, path)
		if len(once) > 3*len(path) || len(loose) > len(path) {
			t.Errorf("%q: longer: %q %q", path, once, loose)
		}
		if PlainPath(path) && (string(once) != string(path) || string(loose) != string(path)) {
			t.Errorf("%q is not plain: %q %q", path, once, loose)
		}
	})
}
