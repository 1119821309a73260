// An OpenID Connect provider for tests. Prints its issuer once it listens.
// Arguments: PORT (0: any free one), SECONDS that an ID token lives. Anybody may sign in under any name; `ann` is in
// the group on-call. Its own pages ask for name and consent.
import { createServer } from 'node:http';
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import Provider from 'oidc-provider';

const [port, life] = process.argv.slice(2).map(Number);
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), kid: randomBytes(4).toString('hex'), use: 'sig', alg: 'RS256' };

const server = createServer();
server.listen(port, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    jwks: { keys: [key] },
    cookies: { keys: [randomBytes(16).toString('hex')] },
    clients: [{
      client_id: 'loradeck',
      token_endpoint_auth_method: 'none',
      application_type: 'native',
      grant_types: ['urn:ietf:params:oauth:grant-type:device_code', 'refresh_token'],
      redirect_uris: [],
      response_types: [],
    }],
    features: { deviceFlow: { enabled: true }, revocation: { enabled: true } },
    conformIdTokenClaims: false, // groups stand in the ID token
    claims: { openid: ['sub', 'groups'], email: ['email'], profile: ['name'] },
    scopes: ['openid', 'offline_access', 'email', 'profile'],
    ttl: { IdToken: life, DeviceCode: 60, AccessToken: 60, RefreshToken: 86400, Grant: 86400, Session: 86400, Interaction: 600 },
    findAccount: (_, id) => ({
      accountId: id,
      claims: () => ({ sub: id, email: `${id}@example.com`, groups: id === 'ann' ? ['on-call'] : ['others'] }),
    }),
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
