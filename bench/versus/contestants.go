package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
)

// Each contestant is configured as its manual recommends for this work, and logs no requests: nobody is to win by
// another's bad configuration.

// tidepool is run as anybody would, with an empty configuration and environment.
func tidepool(_ context.Context, s site) (*exec.Cmd, error) {
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(s.tidepool, "serve", "--listen", s.listen, "--admin", admin, "--data", filepath.Join(s.dir, "data"),
		"--upstream", "docker.io=http://"+s.origin, "--log-level", "warn")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir}
	return cmd, nil
}

// nginx has large buffers for the miss, sendfile and cached descriptors for the hit, a worker with a queue of its own
// for each core, and keeps its upstream connections. A fill is shared by the lock; a stale answer is better than none.
// The sizes are the fastest that were found.
func nginx(_ context.Context, s site) (*exec.Cmd, error) {
	bin, err := installed("nginx")
	if err != nil {
		return nil, err
	}
	me, err := user.Current()
	if err != nil {
		return nil, err
	}
	conf := expand(nginxConf, s, "USER", me.Username)
	return exec.Command(bin, "-p", s.dir, "-c", conf.in("nginx.conf"), "-e", "log"), conf.err
}

const nginxConf = `
user USER;
daemon off;
worker_processes auto;
worker_rlimit_nofile 16384;
pid nginx.pid;
error_log log error;
events { worker_connections 8192; }
http {
	access_log off;
	sendfile on;
	sendfile_max_chunk 512k;
	tcp_nopush on;
	keepalive_timeout 300s;
	keepalive_requests 100000000;
	open_file_cache max=10000 inactive=300s;
	open_file_cache_valid 300s;
	client_body_temp_path tmp;
	proxy_temp_path tmp;
	proxy_cache_path cache levels=1:2 keys_zone=content:32m max_size=20g inactive=1d use_temp_path=off;
	upstream origin { server ORIGIN; keepalive 64; }
	proxy_http_version 1.1;
	proxy_set_header Connection "";
	proxy_buffers 16 64k;
	proxy_buffer_size 16k;
	proxy_busy_buffers_size 256k;
	proxy_cache content;
	proxy_cache_key $uri;
	proxy_cache_valid 200 1d;
	proxy_ignore_headers Cache-Control Expires Vary Set-Cookie;
	proxy_cache_lock on;
	proxy_cache_lock_age 60s;
	proxy_cache_lock_timeout 60s;
	proxy_cache_use_stale error timeout updating http_500 http_502 http_503 http_504;
	server {
		listen LISTEN backlog=4096 reuseport;
		location / { proxy_pass http://origin; }
	}
}
`

// dockerRegistry is Debian's distribution as a pull-through cache, with its descriptors cached in memory.
func dockerRegistry(_ context.Context, s site) (*exec.Cmd, error) {
	bin, err := installed("docker-registry")
	if err != nil {
		return nil, err
	}
	conf := expand(registryConf, s)
	return exec.Command(bin, "serve", conf.in("config.yml")), conf.err
}

const registryConf = `
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: DIR/data}
  cache: {blobdescriptor: inmemory}
  maintenance: {uploadpurging: {enabled: false}}
http: {addr: LISTEN, secret: none}
proxy: {remoteurl: http://ORIGIN}
`

// varnish keeps everything in memory and has a thread for each of a thousand slow clients.
func varnish(_ context.Context, s site) (*exec.Cmd, error) {
	bin, err := installed("varnishd")
	if err != nil {
		return nil, err
	}
	host, port, _ := strings.Cut(s.origin, ":")
	vcl := expand(varnishConf, s, "HOST", host, "PORT", port)
	const blobs = 20 // how many must fit
	return exec.Command(bin, "-F", "-j", "none", "-n", filepath.Join(s.dir, "work"), "-a", s.listen, "-T", "none",
		"-f", vcl.in("default.vcl"), "-s", fmt.Sprintf("malloc,%d", blobs*s.size),
		"-p", "thread_pool_min=100", "-p", "thread_pool_max=2000", "-p", "thread_pools=2"), vcl.err
}

const varnishConf = `
vcl 4.1;
backend default { .host = "HOST"; .port = "PORT"; }
sub vcl_recv { return (hash); }
sub vcl_backend_response {
	set beresp.do_stream = true;
	set beresp.ttl = 1d;
	set beresp.grace = 1d;
	unset beresp.http.Vary;
	return (deliver);
}
`

// configuration is a template filled in for a site, on its way to a file.
type configuration struct {
	text, dir string
	err       error
}

// expand replaces LISTEN, ORIGIN and DIR by those of s, and what else pairs name.
func expand(template string, s site, pairs ...string) *configuration {
	pairs = append(pairs, "LISTEN", s.listen, "ORIGIN", s.origin, "DIR", s.dir)
	return &configuration{text: strings.NewReplacer(pairs...).Replace(template), dir: s.dir}
}

// in writes c to a file of that name and returns its path; a failure stays in c.err.
func (c *configuration) in(name string) string {
	path := filepath.Join(c.dir, name)
	c.err = os.WriteFile(path, []byte(c.text), 0o600)
	return path
}

// installed finds a program, also where only root's PATH has it.
func installed(name string) (string, error) {
	for _, n := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(n); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("not installed: no %s in PATH", name)
}
