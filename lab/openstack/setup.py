#!/usr/bin/python3
"""Fills one site: `catalog` before the services answer, `contents` after.
Speaks to the services as anybody would, and makes only what is not there yet.

  setup.py catalog|contents SITE REGION SECRET [COMPUTES]

Ports and the external range come from up.sh: P_KEYSTONE and the like, EXTERNAL.
"""
import calendar
import json
import os
import sys
import time
import urllib.error
import urllib.request

phase, site, region, secret = sys.argv[1:5]
computes = int(sys.argv[5]) if len(sys.argv) > 5 else 1


def url(service):
    return 'http://127.0.0.1:' + os.environ['P_' + service]


IDENTITY, COMPUTE = url('KEYSTONE') + '/v3', url('NOVA') + '/v2.1'
NETWORK, IMAGE = url('NEUTRON') + '/v2.0', url('GLANCE') + '/v2'
VOLUME, PLACEMENT = url('CINDER'), url('PLACEMENT')
token = None


def call(method, where, body=None, ok=(200, 201, 202, 204), headers=None, tries=40):
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    sent = {'Content-Type': 'application/json', 'Accept': 'application/json'}
    if token:
        sent['X-Auth-Token'] = token
    sent.update(headers or {})
    while True:
        tries -= 1
        try:
            with urllib.request.urlopen(urllib.request.Request(
                    where, data, sent, method=method), timeout=60) as r:
                code, raw, back = r.status, r.read(), r.headers
        except urllib.error.HTTPError as e:
            code, raw, back = e.code, e.read(), e.headers
        except OSError as e:
            code, raw, back = 599, str(e).encode(), {}
        if code in ok:
            return (json.loads(raw) if raw[:1] in (b'{', b'[') else None), back
        if code < 500 or tries <= 0:
            raise SystemExit('%s %s: %s %s' % (method, where, code, raw[:400]))
        time.sleep(1)


def login():
    global token
    body, headers = call('POST', IDENTITY + '/auth/tokens', {'auth': {
        'identity': {'methods': ['password'], 'password': {'user': {
            'name': 'admin', 'password': secret, 'domain': {'id': 'default'}}}},
        'scope': {'project': {'name': 'admin', 'domain': {'id': 'default'}}}}})
    token = headers['X-Subject-Token']
    return body['token']['project']['id']


def ensure(base, many, one, name, **fields):
    """Find by name, or create, a thing of the identity or network kind."""
    found = call('GET', '%s/%s?name=%s' % (base, many, name))[0][many.split('/')[-1]]
    if found:
        return found[0]
    return call('POST', '%s/%s' % (base, many), {one: dict(fields, name=name)})[0][one]


def catalog():
    login()
    project = ensure(IDENTITY, 'projects', 'project', 'service', domain_id='default')
    user = ensure(IDENTITY, 'users', 'user', 'service', domain_id='default',
                  password=secret, default_project_id=project['id'])
    for name in ('admin', 'service'):
        role = ensure(IDENTITY, 'roles', 'role', name)
        call('PUT', '%s/projects/%s/users/%s/roles/%s' % (
            IDENTITY, project['id'], user['id'], role['id']))
    endpoints = call('GET', IDENTITY + '/endpoints')[0]['endpoints']
    for name, kind, where in (
            ('nova', 'compute', COMPUTE),
            ('neutron', 'network', url('NEUTRON')),
            ('cinderv3', 'volumev3', VOLUME + '/v3/%(project_id)s'),
            ('glance', 'image', url('GLANCE')),
            ('placement', 'placement', PLACEMENT)):
        found = call('GET', '%s/services?type=%s' % (IDENTITY, kind))[0]['services']
        service = found[0] if found else call('POST', IDENTITY + '/services', {
            'service': {'name': name, 'type': kind}})[0]['service']
        for interface in ('public', 'internal', 'admin'):
            if not any(e['service_id'] == service['id'] and
                       e['interface'] == interface for e in endpoints):
                call('POST', IDENTITY + '/endpoints', {'endpoint': {
                    'service_id': service['id'], 'interface': interface,
                    'region_id': region, 'url': where}})


def wait_for(what, seconds, test):
    end = time.time() + seconds
    while not test():
        if time.time() > end:
            raise SystemExit('%s: not there after %d s' % (what, seconds))
        time.sleep(1)


def contents():
    project = login()
    volume = '%s/v3/%s' % (VOLUME, project)

    external = ensure(NETWORK, 'networks', 'network', 'public', **{
        'router:external': True, 'provider:network_type': 'flat',
        'provider:physical_network': 'physnet1'})
    net = os.environ['EXTERNAL']
    ensure(NETWORK, 'subnets', 'subnet', 'public-v4', network_id=external['id'],
           ip_version=4, cidr=net + '.0/24', gateway_ip=net + '.1',
           enable_dhcp=False,
           allocation_pools=[{'start': net + '.10', 'end': net + '.250'}])

    if not call('GET', IMAGE + '/images?name=lab-tiny')[0]['images']:
        image = call('POST', IMAGE + '/images', {
            'name': 'lab-tiny', 'disk_format': 'raw', 'container_format': 'bare',
            'visibility': 'public', 'min_disk': 0, 'min_ram': 0})[0]
        call('PUT', IMAGE + '/images/%s/file' % image['id'],
             (b'tiny disk of site %s\n' % site.encode()).ljust(1 << 20, b'\0'),
             headers={'Content-Type': 'application/octet-stream'})

    types = call('GET', volume + '/types')[0]['volume_types']
    if not any(t['name'] == 'lab' for t in types):
        call('POST', volume + '/types', {'volume_type': {
            'name': 'lab', 'extra_specs': {'volume_backend_name': 'lab',
                                           'multiattach': '<is> True'}}})

    names = {f['name'] for f in call('GET', COMPUTE + '/flavors')[0]['flavors']}
    for name, cpus, ram, disk in (('lab.tiny', 1, 256, 1), ('lab.small', 2, 1024, 2)):
        if name not in names:
            call('POST', COMPUTE + '/flavors', {'flavor': {
                'name': name, 'vcpus': cpus, 'ram': ram, 'disk': disk}})

    # A service that has just died still counts as "up" for a minute, so ask for
    # a heartbeat younger than this call, from every one of them.
    begun = time.time() - 1

    def beating(where, binary, many, wanted=1):
        def test():
            found = call('GET', '%s/os-services?binary=%s' % (where, binary))[0][many]
            return len([s for s in found if s['state'] == 'up' and s['updated_at'] and
                        calendar.timegm(time.strptime(
                            s['updated_at'][:19], '%Y-%m-%dT%H:%M:%S')) >= begun]) >= wanted
        wait_for(binary, 240, test)

    def hypervisors():
        found = call('GET', COMPUTE + '/os-hypervisors')[0]['hypervisors']
        return len([h for h in found if h['state'] == 'up']) >= computes

    def pools():
        found = call('GET', volume + '/scheduler-stats/get_pools')[0]['pools']
        return bool(found)

    for binary in ('cinder-scheduler', 'cinder-volume'):
        beating(volume, binary, 'services')
    wait_for('a volume pool in the scheduler', 180, pools)
    for binary in ('nova-conductor', 'nova-scheduler'):
        beating(COMPUTE, binary, 'services')
    beating(COMPUTE, 'nova-compute', 'services', computes)
    wait_for('%d hypervisor(s)' % computes, 240, hypervisors)


{'catalog': catalog, 'contents': contents}[phase]()
